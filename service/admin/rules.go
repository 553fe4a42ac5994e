package admin

import (
	"errors"
	"math"
	"net"
	"path"
	"slices"
	"strings"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/object/storeurl"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// The rules of each table: what a field may be, and what else a change changes.

const (
	defaultRetention = 7 * 24 * 3600 // seconds
	maxRetention     = 100 * 365 * 24 * 3600
)

// finish applies the rules of the table to c.new, which has passed check.
func (c *change) finish() error {
	switch e := c.new.(type) {
	case *adminapi.Store:
		return c.finishStore(e)
	case *adminapi.MetadataServer:
		return c.finishMetadataServer(e)
	case *adminapi.ProxyGroup:
		for _, a := range e.Addresses {
			if err := checkAddress("addresses", a); err != nil {
				return err
			}
		}
	case *adminapi.Volume:
		return c.finishVolume(e)
	case *adminapi.Token:
		return c.finishToken(e)
	case *adminapi.Account:
		return c.finishAccount(e)
	}
	return nil
}

func checkAddress(field, a string) error {
	host, port, err := net.SplitHostPort(a)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || host == "" || strings.ContainsAny(host, "/@?# ") {
		return invalid("field %q: %q is no address; write HOST:PORT", field, a)
	}
	return nil
}

func (c *change) finishAccount(a *adminapi.Account) error {
	if a.System && a.Disabled {
		return invalid("the installation's account cannot be disabled")
	}
	if old, ok := c.old.(*adminapi.Account); !ok || old.Disabled == a.Disabled {
		return nil
	}
	return c.eachToken(func(t *adminapi.Token) error {
		if t.Kind == adminapi.TokenVolume && t.Account == a.ID {
			c.events = append(c.events, adminapi.Event{Kind: adminapi.EventToken, Token: t.ID, Volume: t.Volume})
		}
		return nil
	})
}

func (c *change) eachToken(fn func(*adminapi.Token) error) error {
	return scan(c.w, adminapi.SchemaOf(adminapi.TableTokens), "", func(e adminapi.Entity) (bool, error) {
		return true, fn(e.(*adminapi.Token))
	})
}

func (c *change) eachVolume(fn func(*adminapi.Volume) error) error {
	return scan(c.w, adminapi.SchemaOf(adminapi.TableVolumes), "", func(e adminapi.Entity) (bool, error) {
		return true, fn(e.(*adminapi.Volume))
	})
}

func (c *change) finishStore(s *adminapi.Store) error {
	l, err := storeurl.Parse(s.URL)
	switch {
	case err != nil:
		return invalid("field \"url\": %v", err)
	case l.Scheme == "mem":
		return invalid("field \"url\": a mem:// store ends with the process that has it; use file:///DIR or s3://BUCKET/PREFIX")
	case l.Scheme == "file" && l.Path == "/":
		return invalid("field \"url\": the root directory cannot be a store")
	case (s.AccessKeyID != "" || s.SecretKey != "") && l.Scheme != "s3":
		return invalid("fields \"accessKeyID\" and \"secretKey\" are for s3 stores")
	case (s.AccessKeyID != "") != (s.SecretKey != ""):
		return invalid("fields \"accessKeyID\" and \"secretKey\": give both or none")
	}
	s.HasSecret = s.SecretKey != ""
	if c.old == nil {
		return nil
	}
	return c.eachVolume(func(v *adminapi.Volume) error {
		if v.Store == s.ID {
			c.events = append(c.events, adminapi.Event{Kind: adminapi.EventVolume, Volume: v.ID})
		}
		return nil
	})
}

// finishMetadataServer gives a new server its token.
func (c *change) finishMetadataServer(m *adminapi.MetadataServer) error {
	if err := checkAddress("address", m.Address); err != nil {
		return err
	}
	if c.old != nil {
		return nil
	}
	t := &adminapi.Token{Kind: adminapi.TokenMetadataServer, MetadataServer: m.ID}
	t.ID, t.Created, t.Changed, t.Notes = newID(), c.now, c.now, "of the metadata server "+m.Name
	return c.issue(t)
}

// issue makes the secret of a token and stores it.
func (c *change) issue(t *adminapi.Token) error {
	c.secret = adminapi.NewToken()
	if err := putTokenHash(c.w, t.ID, adminapi.TokenHash(c.secret)); err != nil {
		return err
	}
	return putJSON(c.w, entityKey(adminapi.TableTokens, t.ID), t)
}

func (c *change) finishVolume(v *adminapi.Volume) (err error) {
	if c.old == nil {
		if v.Account == "" {
			v.Account = c.who.token.Account
		}
		switch {
		case v.Store == "":
			return invalid("field \"store\": name the object store of the volume")
		case v.MetadataServer == "":
			return invalid("field \"metadataServer\": name the metadata server of the volume")
		}
		if v.BlockSize == 0 {
			v.BlockSize = meta.DefaultChunkSize
		}
		if v.InlineLimit == nil {
			v.InlineLimit = ptr(int64(meta.DefaultInlineLimit))
		}
		if err := c.ownedBy(v); err != nil {
			return err
		}
	}
	if v.Compression == "" {
		v.Compression = "lz4"
	}
	if v.BlockAccess == "" {
		v.BlockAccess = adminapi.BlocksPresigned
	}
	if v.Retention == nil {
		v.Retention = ptr(int64(defaultRetention))
	}
	switch {
	case v.BlockSize < 0 || v.BlockSize > math.MaxUint32 || *v.InlineLimit < 0 || *v.InlineLimit > math.MaxUint32:
		return invalid("block size and inline limit cannot be that large")
	case *v.Retention < -1 || *v.Retention > maxRetention:
		return invalid("field \"retention\": use 0 for none, -1 for ever, or up to 100 years in seconds")
	case v.QuotaBytes < 0 || v.QuotaInodes < 0 || v.MaxProxied < 0:
		return invalid("quotas and limits must not be negative")
	}
	format := VolumeFormat(v)
	if err := format.Validate(); err != nil {
		return invalid("%v", err)
	}
	if v.Flags, err = mount.ForcedFlags(v.Flags); err != nil {
		return invalid("field \"flags\": %v", err)
	}
	c.events = append(c.events, adminapi.Event{Kind: adminapi.EventVolume, Volume: v.ID})
	return nil
}

// ownedBy refuses stores and servers of another account than the volume's.
func (c *change) ownedBy(v *adminapi.Volume) error {
	for table, id := range map[string]string{adminapi.TableStores: v.Store, adminapi.TableMetadataServers: v.MetadataServer} {
		s := adminapi.SchemaOf(table)
		e, err := readEntity(c.w, s, id)
		if err != nil {
			return err
		}
		if a := e.Base().Account; a != "" && a != v.Account {
			return refuse(adminapi.CodeForbidden, "the %s %s belongs to another account", s.One, e.Base().Name)
		}
	}
	return nil
}

func (c *change) finishToken(t *adminapi.Token) (err error) {
	if c.old == nil {
		if err := c.startToken(t); err != nil {
			return err
		}
	}
	if old, ok := c.old.(*adminapi.Token); ok && old.Revoked != nil {
		return refuse(adminapi.CodeConflict, "the token is revoked")
	}
	if t.Expires != nil && t.Expires.Before(c.now) && c.given["expires"] != nil {
		return invalid("field \"expires\": that time has passed")
	}
	if t.Kind != adminapi.TokenVolume && (t.Path != "" || t.ReadOnly || t.Flags != "") {
		return invalid("fields \"path\", \"readOnly\" and \"flags\" are for tokens of volumes")
	}
	if t.Path, err = cleanPath(t.Path); err != nil {
		return err
	}
	if t.Flags, err = mount.ForcedFlags(t.Flags); err != nil {
		return invalid("field \"flags\": %v", err)
	}
	if c.old != nil && t.Kind == adminapi.TokenVolume {
		c.events = append(c.events, adminapi.Event{Kind: adminapi.EventToken, Token: t.ID, Volume: t.Volume})
	}
	return nil
}

// startToken completes a new token.
func (c *change) startToken(t *adminapi.Token) error {
	if t.Kind == "" {
		switch {
		case t.Volume != "":
			t.Kind = adminapi.TokenVolume
		case t.MetadataServer != "":
			t.Kind = adminapi.TokenMetadataServer
		case t.Role != "" || t.Account != "":
			t.Kind = adminapi.TokenAccount
		default:
			return invalid("name a volume, a metadata server or a role: a token is for one of them")
		}
	}
	if t.Kind != adminapi.TokenAccount && t.Role != "" || t.Kind != adminapi.TokenVolume && t.Volume != "" ||
		t.Kind != adminapi.TokenMetadataServer && t.MetadataServer != "" {
		return invalid("a token of the kind %q has no other kind's fields (role, volume, metadataServer)", t.Kind)
	}
	switch t.Kind {
	case adminapi.TokenVolume:
		if t.Volume == "" {
			return invalid("field \"volume\": name the volume of the token")
		}
		v, err := read[adminapi.Volume](c.w, adminapi.TableVolumes, t.Volume)
		if err != nil {
			return err
		}
		if t.Account != "" && t.Account != v.Account {
			return invalid("field \"account\": the volume belongs to another account")
		}
		if v.Encryption && t.Path != "" {
			return invalid("field \"path\": the volume %s is encrypted: its servers do not know its directories by name, so a token cannot be limited to one", v.Name)
		}
		t.Account = v.Account
	case adminapi.TokenMetadataServer:
		if t.MetadataServer == "" {
			return invalid("field \"metadataServer\": name the metadata server of the token")
		}
		t.Account = ""
	case adminapi.TokenAccount:
		if t.Role == "" {
			t.Role = adminapi.RoleAuditor
		}
		if t.Account == "" {
			t.Account = c.who.token.Account
		}
	}
	return nil
}

// cleanPath brings a sub-directory into the form "a/b"; "" is the whole volume.
func cleanPath(p string) (string, error) {
	if p == "" || p == "/" {
		return "", nil
	}
	for _, part := range strings.Split(strings.Trim(p, "/"), "/") {
		if part == ".." || part == "." || part == "" || len(part) > 255 {
			return "", invalid("field \"path\": %q is no directory of a volume; write it as a/b", p)
		}
	}
	if len(p) > 4096 || strings.ContainsRune(p, 0) {
		return "", invalid("field \"path\" is too long")
	}
	return strings.TrimPrefix(path.Clean("/"+p), "/"), nil
}

// remove applies the rules of deletion. It returns the entity that stays, if one does.
func (c *change) remove() (keep bool, err error) {
	switch e := c.new.(type) {
	case *adminapi.Account:
		if e.System {
			return false, refuse(adminapi.CodeConflict, "the installation's account cannot be deleted")
		}
		return false, c.unused(adminapi.TableAccounts, e.ID, func(s *adminapi.Schema, u adminapi.Entity) bool {
			t, isToken := u.(*adminapi.Token)
			return u.Base().Account == e.ID && !(isToken && t.Revoked != nil)
		})
	case *adminapi.Store:
		return false, c.unused(adminapi.TableStores, e.ID, func(_ *adminapi.Schema, u adminapi.Entity) bool {
			v, ok := u.(*adminapi.Volume)
			return ok && v.Store == e.ID
		})
	case *adminapi.ProxyGroup:
		return false, c.unused(adminapi.TableProxyGroups, e.ID, func(_ *adminapi.Schema, u adminapi.Entity) bool {
			v, ok := u.(*adminapi.Volume)
			return ok && slices.Contains(v.ProxyGroups, e.ID)
		})
	case *adminapi.MetadataServer:
		if err := c.unused(adminapi.TableMetadataServers, e.ID, func(_ *adminapi.Schema, u adminapi.Entity) bool {
			v, ok := u.(*adminapi.Volume)
			return ok && v.MetadataServer == e.ID
		}); err != nil {
			return false, err
		}
		return false, c.revokeAll(func(t *adminapi.Token) bool { return t.MetadataServer == e.ID })
	case *adminapi.Volume:
		if e.Retired != nil {
			return false, refuse(adminapi.CodeConflict, "the volume %s is deleted already; its record goes when its metadata server has removed the data", e.Name)
		}
		e.Retired = &c.now
		c.events = append(c.events, adminapi.Event{Kind: adminapi.EventVolume, Volume: e.ID})
		return true, c.revokeAll(func(t *adminapi.Token) bool { return t.Volume == e.ID })
	case *adminapi.Token:
		if e.Revoked != nil {
			return false, refuse(adminapi.CodeConflict, "the token is revoked already")
		}
		if e.ID == c.who.token.ID {
			return false, refuse(adminapi.CodeConflict, "a token cannot revoke itself")
		}
		c.revoke(e)
		return true, nil
	}
	return false, errors.New("unknown entity")
}

// revoke ends a token.
func (c *change) revoke(t *adminapi.Token) {
	t.Revoked, t.Changed = &c.now, c.now
	if t.Kind == adminapi.TokenVolume {
		c.events = append(c.events, adminapi.Event{Kind: adminapi.EventToken, Token: t.ID, Volume: t.Volume})
	}
}

func (c *change) revokeAll(which func(*adminapi.Token) bool) error {
	var list []*adminapi.Token
	err := c.eachToken(func(t *adminapi.Token) error {
		if t.Revoked == nil && which(t) {
			list = append(list, t)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, t := range list {
		c.revoke(t)
		if err := putJSON(c.w, entityKey(adminapi.TableTokens, t.ID), t); err != nil {
			return err
		}
	}
	return nil
}

// unused refuses the removal of what another entity needs.
func (c *change) unused(table, id string, uses func(*adminapi.Schema, adminapi.Entity) bool) error {
	for _, s := range adminapi.Schemas() {
		err := scan(c.w, s, "", func(u adminapi.Entity) (bool, error) {
			if uses(s, u) {
				b := u.Base()
				name := b.Name
				if name == "" {
					name = b.ID
				}
				return false, refuse(adminapi.CodeConflict, "the %s is in use by the %s %s", c.schema.One, s.One, name)
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// VolumeFormat are the settings of a volume as its metadata engine has them.
func VolumeFormat(v *adminapi.Volume) meta.Format {
	return meta.Format{
		Version: meta.FormatVersion, Name: v.Name, UUID: v.ID, Created: v.Created,
		ChunkSize: uint32(v.BlockSize), Compression: v.Compression, InlineLimit: uint32(*v.InlineLimit),
		Retention: retention(*v.Retention), QuotaBytes: uint64(v.QuotaBytes), QuotaInodes: uint64(v.QuotaInodes),
	}
}

func ptr[T any](v T) *T { return &v }
