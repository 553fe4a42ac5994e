package azure

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/objecttest"
)

func testLake(t *testing.T) {
	f := factory(lakeConfig(t))
	f.NoNesting = "in a tree no file is below another"
	f.Many = 300
	if testing.Short() { // bodies go as those of a flat account
		f.Only = []string{"PutGet", "Missing", "Delete", "Copy", "Rename", "List", "ListMany", "ListChanging", "Random", "IfAbsentRace", "ConcurrentKeys", "SecondHandle"}
	}
	objecttest.Run(t, f)
}

func mustPut(t *testing.T, s object.Store, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if _, err := s.Put(t.Context(), key, strings.NewReader(key), int64(len(key)), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func listAll(t *testing.T, s object.Store, opts object.ListOptions) (all []string) {
	t.Helper()
	for {
		page, err := s.List(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Objects {
			all = append(all, o.Key)
		}
		all = append(all, page.Prefixes...)
		if opts.Token = page.Next; opts.Token == "" {
			slices.Sort(all)
			return all
		}
	}
}

func content(t *testing.T, s object.Store, key string) string {
	t.Helper()
	body, _, err := s.Get(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	p, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func testDirectories(t *testing.T) {
	ctx := t.Context()
	cfg := lakeConfig(t)
	cfg.Prefix = "below/here/"
	s := openStore(t, cfg)
	tree, ok := object.As[object.Tree](s)
	if !ok {
		t.Fatal("a hierarchical account is no Tree")
	}
	if err := tree.Mkdir(ctx, "made/on purpose"); err != nil {
		t.Fatal(err)
	}
	if err := tree.Mkdir(ctx, "made"); !errors.Is(err, object.ErrExists) {
		t.Errorf("mkdir of what is there: %v", err)
	}
	info, err := tree.HeadDir(ctx, "made/on purpose")
	if err != nil || info.ETag == "" || info.ModTime.IsZero() || len(info.Metadata) != 0 {
		t.Errorf("head of a directory: %+v, %v", info, err)
	}
	if _, err := tree.HeadDir(ctx, "missing"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("head of a missing directory: %v", err)
	}
	mustPut(t, s, "made/on purpose/f", "implicit/deep/f", "implicit/g")
	if _, err := tree.HeadDir(ctx, "implicit/g"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("a file passes for a directory: %v", err)
	}
	// A directory is no object.
	for what, err := range map[string]error{
		"head":   func() error { _, err := s.Head(ctx, "implicit"); return err }(),
		"get":    func() error { _, _, err := s.Get(ctx, "implicit", 0, -1); return err }(),
		"rename": tree.Rename(ctx, "elsewhere", "implicit"),
	} {
		if !errors.Is(err, object.ErrNotFound) {
			t.Errorf("%s of a directory: %v", what, err)
		}
	}
	if _, err := s.Put(ctx, "implicit", strings.NewReader("x"), 1, nil); !errors.Is(err, object.ErrInvalid) {
		t.Errorf("put over a directory: %v", err)
	}
	if _, err := s.Put(ctx, "implicit/g/h", strings.NewReader("x"), 1, nil); !errors.Is(err, object.ErrInvalid) {
		t.Errorf("put below a file: %v", err)
	}
	if err := tree.Rmdir(ctx, "implicit"); !errors.Is(err, object.ErrExists) || !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("rmdir of a full directory: %v", err)
	}
	if err := tree.Rmdir(ctx, "missing"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("rmdir of a missing directory: %v", err)
	}
	// What was made on purpose stays when it is emptied, the rest goes.
	if err := s.Delete(ctx, "made/on purpose/f", "implicit/deep/f"); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.HeadDir(ctx, "made/on purpose"); err != nil {
		t.Errorf("a directory made on purpose went with its last file: %v", err)
	}
	if _, err := tree.HeadDir(ctx, "implicit/deep"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("an emptied directory stayed: %v", err)
	}
	if got := listAll(t, s, object.ListOptions{Delimiter: "/"}); !slices.Equal(got, []string{"implicit/", "made/"}) {
		t.Errorf("listed %q", got)
	}
	if err := tree.Rmdir(ctx, "made/on purpose"); err != nil {
		t.Error(err)
	}

	// With KeepDirectories nothing goes but what was deleted.
	cfg.KeepDirectories = true
	keep := openStore(t, cfg)
	mustPut(t, keep, "kept/f")
	if err := keep.Delete(ctx, "kept/f"); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.HeadDir(ctx, "kept"); err != nil {
		t.Errorf("a directory was not kept: %v", err)
	}
}

// testKind: a hierarchical account is told from a flat one.
func testKind(t *testing.T) {
	lake, flat := lakeConfig(t), serverConfig(t)
	for _, c := range []struct {
		cfg  Config
		want bool
	}{{lake, true}, {flat, false}} {
		if is, err := Hierarchical(t.Context(), c.cfg); err != nil || is != c.want {
			t.Errorf("%s: hierarchical %v, %v", c.cfg.Endpoint, is, err)
		}
	}
	if err := openStore(t, lake).(*Lake).Check(t.Context(), true); err != nil {
		t.Error(err)
	}
	flat.Hierarchical = true
	err := openStore(t, flat).(*Lake).Check(t.Context(), true)
	wantKind(t, "adls over a flat account", err, object.ErrUnsupported, "write az://")
}

func testRenameDir(t *testing.T) {
	ctx := t.Context()
	s := openStore(t, lakeConfig(t)).(*Lake)
	mustPut(t, s, "from %?ü/a", "from %?ü/sub/b", "from %?üb/c", "other/x")
	if err := s.Mkdir(ctx, "from %?ü/empty"); err != nil {
		t.Fatal(err)
	}
	if err := s.RenameDir(ctx, "new/deep +&/to", "from %?ü"); err != nil {
		t.Fatal(err)
	}
	if got, want := listAll(t, s, object.ListOptions{}), []string{"from %?üb/c", "new/deep +&/to/a", "new/deep +&/to/sub/b", "other/x"}; !slices.Equal(got, want) {
		t.Errorf("after the rename %q, want %q", got, want)
	}
	if got := content(t, s, "new/deep +&/to/sub/b"); got != "from %?ü/sub/b" {
		t.Errorf("content %q", got)
	}
	if _, err := s.HeadDir(ctx, "new/deep +&/to/empty"); err != nil {
		t.Errorf("the empty directory did not come along: %v", err)
	}
	if err := s.RenameDir(ctx, "other", "new"); !errors.Is(err, object.ErrExists) || !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("rename onto a full directory: %v", err)
	}
	if err := s.Mkdir(ctx, "vacant"); err != nil {
		t.Fatal(err)
	}
	if err := s.RenameDir(ctx, "vacant", "other"); err != nil {
		t.Errorf("rename onto an empty directory: %v", err)
	}
	if got := content(t, s, "vacant/x"); got != "other/x" {
		t.Errorf("content %q", got)
	}
	if err := s.RenameDir(ctx, "vacant/in", "vacant"); !errors.Is(err, object.ErrInvalid) {
		t.Errorf("rename into itself: %v", err)
	}
	if err := s.RenameDir(ctx, "x", "missing"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("rename of a missing directory: %v", err)
	}
	if err := s.RenameDir(ctx, "x", "vacant/x"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("rename of a file as a directory: %v", err)
	}
}

func testAccess(t *testing.T) {
	ctx := t.Context()
	s := openStore(t, lakeConfig(t)).(*Lake)
	mustPut(t, s, "d/f")
	owner, mode := "11111111-2222-3333-4444-555555555555", fs.ModeSticky|0o750
	for _, path := range []string{"d/f", "d"} {
		a, err := s.Access(ctx, path)
		if err != nil || a.Owner != "$superuser" || a.Mode != 0o640 {
			t.Errorf("%s: %+v, %v", path, a, err)
		}
		if err := s.SetAccess(ctx, path, object.AccessChange{Owner: &owner, Mode: &mode}); err != nil {
			t.Error(err)
		}
		a, err = s.Access(ctx, path)
		if err != nil || a.Owner != owner || a.Group != "$superuser" || a.Mode != mode {
			t.Errorf("%s: %+v, %v", path, a, err)
		}
		acl := "user::rwx,user:" + owner + ":r--,group::r-x,mask::r-x,other::---"
		if err := s.SetAccess(ctx, path, object.AccessChange{ACL: &acl}); err != nil {
			t.Error(err)
		}
		if a, err = s.Access(ctx, path); err != nil || a.ACL != acl || a.Mode != mode {
			t.Errorf("%s: %+v, %v", path, a, err)
		}
	}
	acl := "x"
	if err := s.SetAccess(ctx, "d", object.AccessChange{Mode: &mode, ACL: &acl}); !errors.Is(err, object.ErrInvalid) {
		t.Errorf("mode and ACL at once: %v", err)
	}
	if _, err := s.Access(ctx, "missing"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("access of a missing file: %v", err)
	}
}

// testSignature: requests that are signed here are accepted by a server that checks
// signatures, whatever stands in names and parameters. (The emulator checks none.)
func testSignature(t *testing.T) {
	cfg := serverConfig(t)
	s := mustOpen(t, cfg)
	for _, key := range []string{"plain", "a b/ü%20+&=?#/ß", "x;y:z@w,v!'()*"} {
		mustPut(t, s, key)
		r := lakeRequest{method: "GET", path: key, query: map[string][]string{"timeout": {"30"}}, header: map[string]string{"x-ms-client-request-id": "a  b", "Range": "bytes=0-1"}}
		if _, err := s.lakeDo(t.Context(), "get", key, r); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	cfg.Credentials.AccountKey = "d3Jvbmc="
	if _, err := mustOpen(t, cfg).lakeDo(t.Context(), "get", "plain", lakeRequest{method: "GET", path: "plain"}); !errors.Is(err, object.ErrAccess) {
		t.Errorf("with a wrong key: %v", err)
	}
}

// testCopyByBlocks: copies above the size of one request, and with new properties.
func testCopyByBlocks(t *testing.T) {
	s := openStore(t, lakeConfig(t))
	syncCopyLimit, copyBlockSize = 1000, mib
	defer func() { syncCopyLimit, copyBlockSize = maxSyncCopy, copyBlock }()
	data := bytes.Repeat([]byte("0123456789abcdef"), (2*mib+mib/2)/16)
	opts := &object.PutOptions{ContentType: "text/x", Metadata: map[string]string{"a-b": "c", "umlaut": "ä ö"}}
	if _, err := s.Put(t.Context(), "src +%", bytes.NewReader(data), int64(len(data)), opts); err != nil {
		t.Fatal(err)
	}
	info, err := s.Copy(t.Context(), "dst", "src +%", nil)
	if err != nil {
		t.Fatal(err)
	}
	if content(t, s, "dst") != string(data) {
		t.Error("the copy differs")
	}
	got, err := s.Head(t.Context(), "dst")
	if err != nil || got.ETag != info.ETag || got.ContentType != "text/x" || got.Metadata["umlaut"] != "ä ö" || got.Metadata["a-b"] != "c" {
		t.Errorf("the copy is %+v, %v", got, err)
	}
	if _, err := s.Copy(t.Context(), "bare", "src +%", &object.PutOptions{Metadata: map[string]string{}}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Head(t.Context(), "bare"); err != nil || len(got.Metadata) != 0 || got.Size != int64(len(data)) {
		t.Errorf("the copy without metadata is %+v, %v", got, err)
	}
}
