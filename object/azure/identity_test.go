package azure

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/massif-fs/massif/object"
)

// identities is a login server and a store in one, over HTTPS.
type identities struct {
	*httptest.Server
	ca string

	mu    sync.Mutex
	forms []string // bodies of requests for tokens
	shown string   // Authorization of the last request to the store
	fail  string   // what the login server says instead of giving a token
	code  int
}

func newIdentities(t *testing.T) *identities {
	t.Helper()
	s := &identities{code: http.StatusUnauthorized}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	s.ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(s.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *identities) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
		fmt.Fprintf(w, `{"token_endpoint":"%s/tenant/token","authorization_endpoint":"%s/tenant/auth","issuer":"%s/tenant/v2.0"}`, s.URL, s.URL, s.URL)
	case strings.HasSuffix(r.URL.Path, "/token"):
		s.forms = append(s.forms, string(p))
		if s.fail != "" {
			w.WriteHeader(s.code)
			fmt.Fprint(w, s.fail)
			return
		}
		fmt.Fprint(w, `{"access_token":"token-of-identity","token_type":"Bearer","expires_in":3600}`)
	default:
		s.shown = r.Header.Get("Authorization")
		w.Header().Set("ETag", `"0x1"`)
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		w.Header().Set("Content-Length", "0")
	}
}

func (s *identities) config(c Credentials) Config {
	c.AADEndpoint = s.URL + "/"
	return Config{Account: "acc", Container: "ccc", Endpoint: s.URL + "/acc", CAFile: s.ca, Credentials: c}
}

// TestPrincipals: a service principal is logged in by secret or federated token, and
// its token is shown to the store.
func TestPrincipals(t *testing.T) {
	srv := newIdentities(t)
	file := filepath.Join(t.TempDir(), "federated")
	if err := os.WriteFile(file, []byte("federated-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		creds Credentials
		form  string
	}{
		"secret":     {Credentials{TenantID: "tenant", ClientID: "client", ClientSecret: "secret-of-mine"}, "client_secret=secret-of-mine"},
		"token file": {Credentials{TenantID: "tenant", ClientID: "client", TokenFile: file}, "client_assertion=federated-1"},
		"token":      {Credentials{TenantID: "tenant", ClientID: "client", Token: "federated-2"}, "client_assertion=federated-2"},
		"workload":   {Credentials{Mode: WorkloadIdentity, TenantID: "tenant", ClientID: "client", TokenFile: file}, "client_assertion=federated-1"},
	} {
		srv.mu.Lock()
		srv.forms, srv.shown = nil, ""
		srv.mu.Unlock()
		s := mustOpen(t, srv.config(c.creds))
		if _, err := s.Head(t.Context(), "k"); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		srv.mu.Lock()
		if len(srv.forms) == 0 || !strings.Contains(srv.forms[0], c.form) || !strings.Contains(srv.forms[0], "storage.azure.com") || srv.shown != "Bearer token-of-identity" {
			t.Errorf("%s: asked for %q, showed %q", what, srv.forms, srv.shown)
		}
		srv.mu.Unlock()
	}
}

// TestRefusedIdentities: whoever gives no token is named, with why.
func TestRefusedIdentities(t *testing.T) {
	srv := newIdentities(t)
	principal := Credentials{TenantID: "tenant", ClientID: "client", ClientSecret: "secret-of-mine"}
	srv.fail = `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided. Ensure the secret being sent\r\nTrace ID: 1","error_codes":[7000215]}`
	s := mustOpen(t, srv.config(principal))
	_, err := s.Head(t.Context(), "k")
	wantKind(t, "wrong secret", err, object.ErrAccess, "no token for the identity", "AADSTS7000215: Invalid client secret provided", `"ccc"`)
	_, err = s.List(t.Context(), object.ListOptions{})
	wantKind(t, "wrong secret", err, object.ErrAccess, "AADSTS7000215")

	gone := srv.config(Credentials{TenantID: "tenant", ClientID: "client", TokenFile: filepath.Join(t.TempDir(), "missing")})
	_, err = mustOpen(t, gone).Head(t.Context(), "k")
	wantKind(t, "missing token", err, object.ErrAccess, "federated token cannot be read")

	away := srv.config(principal)
	away.Credentials.AADEndpoint = "https://127.0.0.1:1/"
	_, err = mustOpen(t, away).Head(t.Context(), "k")
	wantKind(t, "login host away", err, object.ErrUnavailable, "127.0.0.1:1", "cannot be reached")

	t.Setenv("PATH", t.TempDir())
	cli := srv.config(Credentials{Mode: AzCLI})
	_, err = mustOpen(t, cli).Head(t.Context(), "k")
	wantKind(t, "no az", err, object.ErrAccess, "AzureCLICredential", "not found on path")
}

// TestManagedIdentity: the machine's identity, by the endpoint of its environment.
func TestManagedIdentity(t *testing.T) {
	store := newIdentities(t)
	var query string
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		if r.Header.Get("X-IDENTITY-HEADER") != "header-of-machine" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"token-of-machine","expires_on":"4102444800","resource":"https://storage.azure.com","token_type":"Bearer"}`)
	}))
	t.Cleanup(endpoint.Close)
	t.Setenv("IDENTITY_ENDPOINT", endpoint.URL)
	t.Setenv("IDENTITY_HEADER", "header-of-machine")
	for what, c := range map[string]struct {
		creds Credentials
		query string
	}{
		"system":    {Credentials{Mode: MSI}, "resource="},
		"by client": {Credentials{AppID: "the-client"}, "client_id=the-client"},
	} {
		cfg := store.config(c.creds)
		cfg.Credentials.AADEndpoint = ""
		if _, err := mustOpen(t, cfg).Head(t.Context(), "k"); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if !strings.Contains(query, c.query) || store.shown != "Bearer token-of-machine" {
			t.Errorf("%s: asked for %q, showed %q", what, query, store.shown)
		}
	}
}
