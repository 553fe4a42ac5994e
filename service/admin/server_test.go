package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

var update = flag.Bool("update", false, "write openapi.json anew")

func contains(s, sub string) bool { return strings.Contains(s, sub) }

var bg = context.Background()

// TestOpenAPI: the document that is checked in and served is the one of the routes.
func TestOpenAPI(t *testing.T) {
	want, err := describe()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("openapi.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, openAPI) {
		t.Error("openapi.json does not agree with the routes; write it anew with: go test ./service/admin -run TestOpenAPI -update")
	}
	w := newWorld(t)
	var doc struct {
		Paths      map[string]map[string]json.RawMessage
		Components struct{ Schemas map[string]json.RawMessage }
	}
	status, body := w.raw("GET", "/v1/openapi.json", "", "")
	if status != 200 || json.Unmarshal(body, &doc) != nil {
		t.Fatalf("%d %s", status, body)
	}
	// Every reference leads somewhere, and every path of the document is answered.
	for _, ref := range strings.Split(string(body), `"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(ref, `"`)
		if doc.Components.Schemas[name] == nil {
			t.Errorf("schema %s is missing", name)
		}
	}
	for path, methods := range doc.Paths {
		for method := range methods {
			p := strings.ReplaceAll(path, "{id}", adminapi.NewToken())
			status, body := w.raw(strings.ToUpper(method), p, "", "")
			if status == 404 && strings.Contains(string(body), "nothing at this path") || status == 405 {
				t.Errorf("%s %s is not answered", method, path)
			}
		}
	}
}

// raw sends a request as it is.
func (w *world) raw(method, path, token, body string) (int, []byte) {
	w.t.Helper()
	config, err := w.trust.TLS(w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: config}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest(method, "https://"+w.addr+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, data
}

func TestEntities(t *testing.T) {
	w := newWorld(t)
	v, ms := w.volume("photos", fields{"blockSize": 1 << 20, "flags": "noExec,rootSquash"})
	if v.BlockSize != 1<<20 || v.Compression != "lz4" || *v.Retention != 7*24*3600 || *v.InlineLimit != 4096 ||
		v.BlockAccess != "presigned" || v.Flags != "noexec,root-squash" || v.Account == "" || v.MetadataServer != ms.ID {
		t.Errorf("%+v", v)
	}
	var got adminapi.Volume
	if err := w.Get(bg, "volumes", "photos", &got); err != nil || got.ID != v.ID {
		t.Errorf("by name: %v, %+v", err, got)
	}
	if err := w.Update(bg, "volumes", v.ID, fields{"name": "pictures", "retention": -1, "quotaBytes": 1 << 40}, &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "pictures" || *got.Retention != -1 || got.QuotaBytes != 1<<40 || got.BlockSize != 1<<20 {
		t.Errorf("%+v", got)
	}
	w.refused(w.Get(bg, "volumes", "photos", &got), adminapi.CodeNotFound, `there is no volume "photos"`)
	create[adminapi.Volume](w, w.Client, "volumes", fields{"name": "photos", "store": "photos-store", "metadataServer": "photos-meta"}) // the name is free again

	create[adminapi.MetadataServer](w, w.Client, "metadata-servers", fields{"name": "second", "address": "[::1]:7"})
	for _, c := range []struct {
		fields fields
		want   string
	}{
		{fields{"blockSize": 2 << 20}, `"blockSize" of a volume cannot be changed`},
		{fields{"store": "photos-store2"}, `there is no store "photos-store2"`},
		{fields{"metadataServer": "second"}, `"metadataServer" of a volume cannot be changed`},
		{fields{"comprssion": "zstd"}, `did you mean "compression"?`},
		{fields{"compression": "brotli"}, `"brotli" is not known; use lz4, zstd, none`},
		{fields{"retired": nil}, "given by the server"},
		{fields{"quotaBytes": -1}, "must not be negative"},
		{fields{"quotaBytes": "1TiB"}, "whole number of bytes"},
		{fields{"retention": -2}, "-1 for ever"},
		{fields{"flags": "log-file=/etc/passwd"}, `"log-file" cannot be demanded`},
		{fields{"flags": "ro=maybe"}, "takes no value"},
		{fields{"name": "../../etc"}, "use 1 to 63 letters"},
		{fields{"name": "a'; DROP TABLE tokens;--"}, "use 1 to 63 letters"},
		{fields{"name": v.ID}, "must not look like an ID"},
		{fields{"notes": strings.Repeat("x", 5000)}, "longer than"},
	} {
		err := w.Update(bg, "volumes", v.ID, c.fields, &got)
		if err == nil || !contains(err.Error(), c.want) {
			t.Errorf("%v: %v does not say %q", c.fields, err, c.want)
		}
	}
	for _, id := range []string{"..", "%2e%2e%2f", "a/b", "x' OR '1'='1", "\x00", strings.Repeat("a", 5000), "e/volumes"} {
		if err := w.Get(bg, "volumes", id, &got); err == nil || !adminapi.IsCode(err, adminapi.CodeNotFound) && !contains(err.Error(), "answers with") {
			t.Errorf("id %q: %v", cut(id, 40), err)
		}
	}

	// What is in use stays.
	w.refused(w.Delete(bg, "stores", "photos-store"), adminapi.CodeConflict, "in use by the volume")
	w.refused(w.Delete(bg, "accounts", "main"), adminapi.CodeConflict, "cannot be deleted")
	w.refused(w.Create(bg, "stores", fields{"name": "photos-store", "url": "s3://b"}, nil), adminapi.CodeConflict, `there is a store "photos-store" already`)
	w.refused(w.Create(bg, "stores", fields{"name": "m", "url": "mem://x"}, nil), adminapi.CodeInvalid, "ends with the process")
	w.refused(w.Create(bg, "stores", fields{"name": "m", "url": "file:///"}, nil), adminapi.CodeInvalid, "root directory")
	w.refused(w.Create(bg, "stores", fields{"name": "m", "url": "s3://key:secret@bucket"}, nil), adminapi.CodeInvalid, "url")
	w.refused(w.Create(bg, "metadata-servers", fields{"name": "m", "address": "nowhere"}, nil), adminapi.CodeInvalid, "HOST:PORT")
	w.refused(w.Create(bg, "volumes", fields{"name": "m"}, nil), adminapi.CodeInvalid, "name the object store")

	// A listing has pages.
	for i := range 5 {
		create[adminapi.ProxyGroup](w, w.Client, "proxy-groups", fields{"name": fmt.Sprint("g", i), "addresses": []string{"10.0.0.1:443"}})
	}
	n := 0
	err := w.ListAll(bg, "proxy-groups", url.Values{"limit": {"2"}}, func(json.RawMessage) error { n++; return nil })
	if err != nil || n != 5 {
		t.Errorf("listing in pages: %d, %v", n, err)
	}
}

// TestSecrets: secrets come out once, and stand in no list, log or audit record.
func TestSecrets(t *testing.T) {
	w := newWorld(t)
	v, ms := w.volume("v", nil)
	tok := create[adminapi.Token](w, w.Client, "tokens", fields{"volume": "v", "name": "mounts"})
	for _, secret := range []string{tok.Token, ms.Token, w.token} {
		if _, err := adminapi.ParseToken(secret); err != nil {
			t.Fatalf("%q: %v", secret, err)
		}
	}
	var seen strings.Builder
	for _, table := range []string{"accounts", "stores", "metadata-servers", "volumes", "tokens", "audit"} {
		err := w.ListAll(bg, table, nil, func(m json.RawMessage) error { seen.Write(m); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	var one json.RawMessage
	for _, path := range [][2]string{{"stores", "v-store"}, {"tokens", tok.ID}, {"metadata-servers", ms.ID}, {"volumes", v.ID}} {
		if err := w.Get(bg, path[0], path[1], &one); err != nil {
			t.Fatal(err)
		}
		seen.Write(one)
	}
	var changed json.RawMessage
	if err := w.Update(bg, "stores", "v-store", fields{"notes": "n"}, &changed); err != nil {
		t.Fatal(err)
	}
	seen.Write(changed)
	if _, err := w.client(tok.Token).Mount(bg); err != nil {
		t.Fatal(err)
	}
	seen.WriteString(w.log.String())
	for _, secret := range []string{tok.Token, ms.Token, w.token, "the-secret-of-the-store"} {
		if strings.Contains(seen.String(), secret) {
			t.Errorf("a secret is shown: %s", secret)
		}
	}
	if !strings.Contains(seen.String(), `"hasSecret":true`) {
		t.Error("the store does not tell that it has a secret")
	}
	// The database holds hashes of tokens only.
	err := w.server.db.View(bg, func(r kv.Reader) error {
		return r.Scan(nil, nil, func(k, val []byte) (bool, error) {
			for _, secret := range []string{tok.Token, ms.Token, w.token} {
				if bytes.Contains(val, []byte(secret)) || bytes.Contains(k, []byte(secret)) {
					t.Errorf("a token lies at %q", k)
				}
			}
			return true, nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRolesAndAccounts(t *testing.T) {
	w := newWorld(t)
	w.volume("mine", nil)
	acc := create[adminapi.Account](w, w.Client, "accounts", fields{"name": "lab"})
	role := func(account, role string) *adminapi.Client {
		return w.client(create[adminapi.Token](w, w.Client, "tokens", fields{"kind": "account", "account": account, "role": role}).Token)
	}
	auditor, operator, owner := role("lab", "auditor"), role("lab", "operator"), role("lab", "owner")
	vol := fields{"name": "labdata", "store": "mine-store", "metadataServer": "mine-meta"}

	w.refused(auditor.Create(bg, "volumes", vol, nil), adminapi.CodeForbidden, "takes the role operator, the token has auditor")
	v := create[adminapi.Volume](w, operator, "volumes", vol)
	if v.Account != acc.ID {
		t.Errorf("the volume is of account %s", v.Account)
	}
	var got adminapi.Volume
	for _, c := range []*adminapi.Client{auditor, operator, owner, w.Client} {
		if err := c.Get(bg, "volumes", v.ID, &got); err != nil {
			t.Error(err)
		}
	}
	// Other accounts' things do not even exist.
	w.refused(owner.Get(bg, "volumes", "mine", &got), adminapi.CodeNotFound, "there is no volume")
	w.refused(owner.Create(bg, "tokens", fields{"volume": "mine"}, nil), adminapi.CodeNotFound, "there is no volume")
	w.refused(owner.Get(bg, "accounts", "main", nil), adminapi.CodeNotFound, "there is no account")
	w.refused(owner.Create(bg, "tokens", fields{"kind": "account", "account": "main", "role": "owner"}, nil), adminapi.CodeNotFound, "no account")
	w.refused(owner.Create(bg, "stores", fields{"name": "s", "url": "file:///etc"}, nil), adminapi.CodeForbidden, "installation's account")
	w.refused(owner.Create(bg, "metadata-servers", fields{"name": "s", "address": "h:1"}, nil), adminapi.CodeForbidden, "installation's account")
	w.refused(owner.Create(bg, "tokens", fields{"metadataServer": "mine-meta"}, nil), adminapi.CodeForbidden, "installation's account")
	w.refused(owner.Create(bg, "accounts", fields{"name": "x"}, nil), adminapi.CodeForbidden, "installation's account")
	w.refused(owner.Update(bg, "volumes", v.ID, fields{"account": "main"}, nil), adminapi.CodeNotFound, "no account")
	w.refused(operator.Create(bg, "tokens", fields{"role": "owner"}, nil), adminapi.CodeForbidden, "takes the role owner")
	w.refused(operator.Create(bg, "tokens", fields{"role": "auditor"}, nil), adminapi.CodeForbidden, "takes the role owner")
	w.refused(auditor.Delete(bg, "volumes", v.ID), adminapi.CodeForbidden, "takes the role operator")
	create[adminapi.Token](w, operator, "tokens", fields{"volume": v.ID})
	create[adminapi.Token](w, owner, "tokens", fields{"role": "operator"})

	// The audit log is the account's, and holds what was refused.
	var sees []adminapi.AuditRecord
	err := auditor.ListAll(bg, "audit", nil, func(m json.RawMessage) error {
		var a adminapi.AuditRecord
		if err := json.Unmarshal(m, &a); err != nil {
			return err
		}
		if sees = append(sees, a); a.Account != acc.ID {
			t.Errorf("a record of another account: %s", m)
		}
		return nil
	})
	refused := 0
	for _, a := range sees {
		if a.Result == "refused" && a.Remote != "" && a.Token != "" {
			refused++
		}
	}
	if err != nil || len(sees) < 10 || refused < 8 {
		t.Errorf("audit log: %d records, %d refused, %v", len(sees), refused, err)
	}

	// A disabled account is out, with its volumes.
	tok := create[adminapi.Token](w, owner, "tokens", fields{"volume": v.ID})
	if err := w.Update(bg, "accounts", "lab", fields{"disabled": true}, nil); err != nil {
		t.Fatal(err)
	}
	w.refused(owner.Get(bg, "volumes", v.ID, &got), adminapi.CodeForbidden, "the account lab is disabled")
	_, err = w.client(tok.Token).Mount(bg)
	w.refused(err, adminapi.CodeForbidden, "the account lab is disabled")
}
