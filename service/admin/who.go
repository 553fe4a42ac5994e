package admin

import (
	"errors"
	"fmt"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// who is who asks: a token that was recognized.
type who struct {
	token   *adminapi.Token
	account *adminapi.Account // nil for the token of a metadata server
	remote  string
}

func (w *who) system() bool { return w.account != nil && w.account.System }

// ranks order the roles.
var ranks = map[string]int{adminapi.RoleAuditor: 1, adminapi.RoleOperator: 2, adminapi.RoleOwner: 3}

func (w *who) is(role string) bool {
	return w.token.Kind == adminapi.TokenAccount && ranks[w.token.Role] >= ranks[role]
}

// sees tells whether an entity is in sight: one of the account, or one for all.
func (w *who) sees(s *adminapi.Schema, e adminapi.Entity) bool {
	if w.system() {
		return true
	}
	b := e.Base()
	switch s.Table {
	case adminapi.TableAccounts:
		return b.ID == w.token.Account
	case adminapi.TableStores, adminapi.TableMetadataServers, adminapi.TableProxyGroups:
		return b.Account == "" || b.Account == w.token.Account
	}
	return b.Account == w.token.Account
}

// mayWrite refuses a change that the role does not allow. old is nil where the
// entity is new.
func (w *who) mayWrite(s *adminapi.Schema, action string, e adminapi.Entity) error {
	need, system := adminapi.RoleOperator, false
	switch s.Table {
	case adminapi.TableAccounts:
		need, system = adminapi.RoleOwner, true
	case adminapi.TableStores, adminapi.TableMetadataServers, adminapi.TableProxyGroups:
		// A store's URL is opened, and a server's address is spoken to, by machines
		// that all accounts share.
		need, system = adminapi.RoleOwner, true
	case adminapi.TableTokens:
		if t, ok := e.(*adminapi.Token); ok && t.Kind != adminapi.TokenVolume {
			need = adminapi.RoleOwner
			system = t.Kind == adminapi.TokenMetadataServer
		}
	}
	if system && !w.system() {
		return refuse(adminapi.CodeForbidden, "%s %s: only an %s of the installation's account may do that", action, s.One, need)
	}
	if !w.is(need) {
		return refuse(adminapi.CodeForbidden, "%s %s: this takes the role %s, the token has %s", action, s.One, need, roleName(w.token))
	}
	if b := e.Base(); s.Table != adminapi.TableAccounts && !w.system() && b.Account != w.token.Account {
		return refuse(adminapi.CodeForbidden, "%s %s: the account is another one", action, s.One)
	}
	return nil
}

func roleName(t *adminapi.Token) string {
	if t.Role == "" {
		return "none"
	}
	return t.Role
}

// recognize finds who shows a token. A refusal has the code "unauthorized".
func recognize(r kv.Reader, secret string, now time.Time) (*who, error) {
	secret, err := adminapi.ParseToken(secret)
	if err != nil {
		return nil, refuse(adminapi.CodeUnauthorized, "%v", err)
	}
	t, err := findToken(r, adminapi.TokenHash(secret))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, refuse(adminapi.CodeUnauthorized, "the token is not known here")
	}
	if err != nil {
		return nil, err
	}
	w := &who{token: t}
	if err := checkToken(t, now); err != nil {
		return w, err
	}
	if t.Account == "" {
		return w, nil
	}
	if w.account, err = read[adminapi.Account](r, adminapi.TableAccounts, t.Account); err != nil {
		return nil, fmt.Errorf("account of token %s: %w", t.ID, err)
	}
	if w.account.Disabled {
		return w, refuse(adminapi.CodeForbidden, "the account %s is disabled", w.account.Name)
	}
	return w, nil
}

// checkToken refuses a token that has ended.
func checkToken(t *adminapi.Token, now time.Time) error {
	switch {
	case t.Revoked != nil:
		return refuse(adminapi.CodeUnauthorized, "the token was revoked at %s", t.Revoked.Format(time.RFC3339))
	case t.Expires != nil && !now.Before(*t.Expires):
		return refuse(adminapi.CodeUnauthorized, "the token has expired at %s", t.Expires.Format(time.RFC3339))
	}
	return nil
}
