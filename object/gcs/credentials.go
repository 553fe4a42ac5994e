package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
)

// scope is what tokens are asked for: reading and writing of objects.
const scope = "https://www.googleapis.com/auth/devstorage.read_write"

// authority gives out tokens.
type authority struct {
	cfg    *Config
	client *http.Client

	mu    sync.Mutex
	creds *auth.Credentials
	mod   time.Time // of the credentials file
}

// token returns the OAuth token of now, "" for anonymous requests.
func (a *authority) token(ctx context.Context) (string, error) {
	switch {
	case a.cfg.Anonymous:
		return "", nil
	case a.cfg.Tokens != nil:
		t, until, err := a.cfg.Tokens(ctx)
		if err == nil && !until.IsZero() && until.Before(time.Now()) {
			err = fmt.Errorf("the token ended at %s", until.UTC().Format(time.RFC3339))
		}
		if err != nil {
			return "", fmt.Errorf("%w: no token: %w", object.ErrAccess, err)
		}
		return t, nil
	}
	creds, err := a.find()
	if err != nil {
		return "", err
	}
	t, err := creds.Token(ctx)
	if err != nil {
		return "", err
	}
	return t.Value, nil
}

// find returns the credentials, looking for them anew if their file has changed.
func (a *authority) find() (*auth.Credentials, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	file := a.cfg.CredentialsFile
	if file == "" {
		file = os.Getenv("GOOGLE_APPLICATION_CREDENTIALS")
	}
	var mod time.Time
	if file != "" {
		st, err := os.Stat(file)
		if err != nil {
			return nil, fmt.Errorf("%w: the credentials cannot be read: %w", object.ErrAccess, err)
		}
		mod = st.ModTime()
	}
	if a.creds != nil && mod.Equal(a.mod) {
		return a.creds, nil
	}
	o := &credentials.DetectOptions{Scopes: []string{scope}, Client: a.client}
	var creds *auth.Credentials
	var err error
	if a.cfg.CredentialsFile != "" {
		creds, err = fromFile(a.cfg.CredentialsFile, o)
	} else {
		creds, err = credentials.DetectDefault(o)
	}
	if err != nil {
		return nil, noCredentials(file, err)
	}
	a.creds, a.mod = creds, mod
	return creds, nil
}

// kinds of credentials that a file may hold.
var kinds = []credentials.CredType{
	credentials.ServiceAccount, credentials.AuthorizedUser, credentials.ExternalAccount,
	credentials.ImpersonatedServiceAccount, credentials.ExternalAccountAuthorizedUser,
}

func fromFile(file string, o *credentials.DetectOptions) (*auth.Credentials, error) {
	p, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Type credentials.CredType `json:"type"`
	}
	if err := json.Unmarshal(p, &doc); err != nil {
		return nil, err
	}
	if !slices.Contains(kinds, doc.Type) {
		return nil, errors.New("unknown kind of credentials")
	}
	return credentials.NewCredentialsFromJSON(doc.Type, p, o)
}

func noCredentials(file string, err error) error {
	if file != "" {
		return &wire.Failure{Kind: object.ErrAccess, Text: fmt.Sprintf("%v: %s holds no credentials of Google Cloud", object.ErrAccess, file), Cause: errors.New("credentials file")}
	}
	return &wire.Failure{
		Kind: object.ErrAccess, Cause: errors.New("no credentials"),
		Text: object.ErrAccess.Error() + ": no credentials were found (credentials file, GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default login, metadata server)",
	}
}

// explainToken is for tokens that were not given.
func (s *Store) explainToken(err error) error {
	var known *wire.Failure
	var refusal *auth.Error
	switch {
	case errors.As(err, &known):
		return &wire.Failure{Kind: known.Kind, Text: s.where + ": " + known.Text, Cause: known.Cause}
	case errors.As(err, &refusal):
		kind := object.ErrAccess
		status := 0
		if refusal.Response != nil {
			status = refusal.Response.StatusCode
		}
		if status == http.StatusTooManyRequests || status >= 500 {
			kind = object.ErrUnavailable
		}
		return &wire.Failure{Kind: kind, Text: fmt.Sprintf("%s: %v: no token for the identity: %s", s.where, kind, said(refusal, status)), Cause: fmt.Errorf("HTTP %d", status)}
	case errors.Is(err, object.ErrAccess):
		return &wire.Failure{Kind: object.ErrAccess, Text: s.where + ": " + err.Error(), Cause: err}
	}
	return wire.ExplainNetwork(s.where+", on the way to a token", err)
}

// said is what whoever gives out tokens had to say, without more than its error's
// name.
func said(e *auth.Error, status int) string {
	text := string(e.Body)
	for _, name := range []string{"invalid_grant", "invalid_client", "unauthorized_client", "access_denied", "invalid_scope", "invalid_target"} {
		if strings.Contains(text, name) {
			return fmt.Sprintf("%s, HTTP %d", name, status)
		}
	}
	return fmt.Sprintf("HTTP %d", status)
}
