package azure

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/massif-fs/massif/internal/testserver"
)

// emulator is a hierarchical account: Azurite, which knows only the Blob protocol,
// behind what a tree has more. It answers the requests of the Data Lake protocol
// that the driver makes, as the service's REST reference describes them, and passes
// those of the Blob protocol on, with directories as the service shows them there.
//
// It is not the service: it checks no signatures of Data Lake requests, renames by
// copying while nobody else is let in, and its order of names within a directory
// (that of their bytes) is only taken to be the service's.
type emulator struct {
	t     *testing.T
	blobs *container.Client // Azurite
	proxy *httputil.ReverseProxy
	name  string // of the container

	// mu is held for reading by requests of the Blob protocol and for writing by
	// those that change the tree.
	mu sync.RWMutex

	// pages are the files of directories as they were listed when changes was
	// listedAt, so that listings do not ask Azurite again and again.
	cacheMu  sync.Mutex
	changes  int
	listedAt int
	pages    map[string][]*container.BlobItem

	dirsMu sync.Mutex
	dirs   map[string]*node // by path; all parents of files are here
	access map[string]*acl
}

type node struct {
	etag  string
	mod   time.Time
	props string
}

type acl struct{ owner, group, permissions, acl string }

var etags = struct {
	sync.Mutex
	n int64
}{}

func nextETag() string {
	etags.Lock()
	defer etags.Unlock()
	etags.n++
	return fmt.Sprintf(`"0xD%d"`, etags.n)
}

// lakeConfig returns the configuration of a fresh hierarchical account.
func lakeConfig(t *testing.T) Config {
	t.Helper()
	cfg := serverConfig(t)
	c, err := mustOpen(t, cfg).container()
	if err != nil {
		t.Fatal(err)
	}
	behind, err := url.Parse(cfg.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	behind.Path = ""
	e := &emulator{t: t, blobs: c, name: cfg.Container, dirs: make(map[string]*node), access: make(map[string]*acl)}
	e.proxy = httputil.NewSingleHostReverseProxy(behind)
	e.proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	srv := httptest.NewServer(e)
	t.Cleanup(srv.Close)
	cfg.Endpoint = srv.URL + "/" + testserver.AzureAccount
	cfg.Hierarchical = true
	return cfg
}

func (e *emulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	root := "/" + testserver.AzureAccount + "/" + e.name
	path, ok := strings.CutPrefix(r.URL.Path, root)
	if !ok {
		e.proxy.ServeHTTP(w, r)
		return
	}
	path = strings.TrimPrefix(path, "/")
	q := r.URL.Query()
	switch {
	case q.Get("restype") == "account":
		w.Header().Set("x-ms-is-hns-enabled", "true")
	case q.Get("resource") == "filesystem" && r.Method == http.MethodGet:
		e.list(w, r, q)
	case q.Get("resource") == "directory" && r.Method == http.MethodPut:
		e.mkdir(w, r, path)
	case r.Header.Get("x-ms-rename-source") != "" && r.Method == http.MethodPut:
		e.rename(w, r, path, strings.TrimPrefix(strings.TrimPrefix(unescaped(r.Header.Get("x-ms-rename-source")), "/"+e.name), "/"))
	case q.Get("action") == "getAccessControl":
		e.getAccess(w, r, path)
	case q.Get("action") == "setAccessControl":
		e.setAccess(w, r, path)
	case r.Method == http.MethodDelete && q.Has("recursive"):
		e.remove(w, r, path)
	case r.Method == http.MethodHead && r.Header.Get("x-ms-version") == lakeVersion:
		e.head(w, r, path)
	default:
		e.blob(w, r, path, q)
	}
}

func unescaped(s string) string {
	s, _, _ = strings.Cut(s, "?")
	p, err := url.PathUnescape(s)
	if err != nil {
		return s
	}
	return p
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("x-ms-error-code", code)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"code":%q,"message":"%s of the emulator.\nRequestId:1"}}`, code, code)
}

func (e *emulator) dir(path string) (node, bool) {
	e.dirsMu.Lock()
	defer e.dirsMu.Unlock()
	n, ok := e.dirs[path]
	if !ok {
		return node{}, false
	}
	return *n, true
}

// addParents makes the directories above a path.
func (e *emulator) addParents(path string) {
	e.dirsMu.Lock()
	defer e.dirsMu.Unlock()
	for p := parentOf(path); p != ""; p = parentOf(p) {
		if e.dirs[p] == nil {
			e.dirs[p] = &node{etag: nextETag(), mod: time.Now()}
		}
	}
}

// isFile asks Azurite.
func (e *emulator) isFile(ctx context.Context, path string) bool {
	_, err := e.blobs.NewBlobClient(path).GetProperties(ctx, nil)
	return err == nil
}

// changed makes known that files may be others than before.
func (e *emulator) changed() {
	e.cacheMu.Lock()
	e.changes++
	e.cacheMu.Unlock()
}

// files lists the files below a directory, by their whole paths.
func (e *emulator) files(ctx context.Context, dir string) ([]*container.BlobItem, error) {
	prefix := dir + "/"
	if dir == "" {
		prefix = ""
	}
	var all []*container.BlobItem
	pager := e.blobs.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix})
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Segment.BlobItems...)
	}
	return all, nil
}

// filesIn lists the files in a directory itself.
func (e *emulator) filesIn(ctx context.Context, dir string) ([]*container.BlobItem, error) {
	e.cacheMu.Lock()
	defer e.cacheMu.Unlock()
	if e.listedAt != e.changes || e.pages == nil {
		e.pages, e.listedAt = make(map[string][]*container.BlobItem), e.changes
	}
	if got, ok := e.pages[dir]; ok {
		return got, nil
	}
	prefix := dir + "/"
	if dir == "" {
		prefix = ""
	}
	all := []*container.BlobItem{}
	pager := e.blobs.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: &prefix})
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Segment.BlobItems...)
	}
	e.pages[dir] = all
	return all, nil
}

func (e *emulator) empty(ctx context.Context, dir string) (bool, error) {
	files, err := e.files(ctx, dir)
	if err != nil || len(files) > 0 {
		return false, err
	}
	e.dirsMu.Lock()
	defer e.dirsMu.Unlock()
	for p := range e.dirs {
		if strings.HasPrefix(p, dir+"/") {
			return false, nil
		}
	}
	return true, nil
}

// blob is a request of the Blob protocol.
func (e *emulator) blob(w http.ResponseWriter, r *http.Request, path string, q url.Values) {
	if path == "" || q.Get("comp") == "list" {
		e.proxy.ServeHTTP(w, r)
		return
	}
	if q.Get("comp") == "block" && r.Header.Get("x-ms-copy-source") != "" {
		e.blockFromURL(w, r, path, q)
		return
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	n, isDir := e.dir(path)
	switch {
	case isDir && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		w.Header().Set("ETag", n.etag)
		w.Header().Set("Last-Modified", n.mod.UTC().Format(http.TimeFormat))
		w.Header().Set("x-ms-meta-hdi_isfolder", "true")
		w.Header().Set("x-ms-blob-type", "BlockBlob")
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return
	case isDir && r.Method == http.MethodDelete:
		if empty, err := e.empty(r.Context(), path); err != nil || !empty {
			refuse(w, http.StatusConflict, "DirectoryIsNotEmpty")
			return
		}
		e.dirsMu.Lock()
		delete(e.dirs, path)
		e.dirsMu.Unlock()
		w.WriteHeader(http.StatusAccepted)
		return
	case isDir:
		refuse(w, http.StatusConflict, "ResourceTypeMismatch")
		return
	}
	if r.Method == http.MethodPut {
		for p := parentOf(path); p != ""; p = parentOf(p) {
			if _, ok := e.dir(p); !ok && e.isFile(r.Context(), p) {
				refuse(w, http.StatusConflict, "PathConflict")
				return
			}
		}
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead || q.Get("comp") == "block" { // makes nothing that is seen
		e.proxy.ServeHTTP(w, r)
		return
	}
	defer e.changed()
	out := &beforeAnswer{w, func(status int) {
		if r.Method == http.MethodPut && status >= 200 && status < 300 {
			e.addParents(path)
			e.changed()
		}
	}}
	e.proxy.ServeHTTP(out, r)
}

// beforeAnswer does something before an answer is sent.
type beforeAnswer struct {
	http.ResponseWriter
	do func(status int)
}

func (w *beforeAnswer) WriteHeader(status int) {
	w.do(status)
	w.ResponseWriter.WriteHeader(status)
}

// blockFromURL is Put Block From URL, which Azurite has not.
func (e *emulator) blockFromURL(w http.ResponseWriter, r *http.Request, path string, q url.Values) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, r.Header.Get("x-ms-copy-source"), nil)
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidHeaderValue")
		return
	}
	req.Header.Set("x-ms-range", r.Header.Get("x-ms-source-range"))
	req.Header.Set("If-Match", r.Header.Get("x-ms-source-if-match"))
	req.Header.Set("x-ms-version", "2021-12-02")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalError")
		return
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusPartialContent && resp.StatusCode != http.StatusOK {
		refuse(w, http.StatusConflict, "CannotVerifyCopySource")
		return
	}
	if _, err := e.blobs.NewBlockBlobClient(path).StageBlock(r.Context(), q.Get("blockid"), streaming.NopCloser(strings.NewReader(string(p))), nil); err != nil {
		refuse(w, http.StatusInternalServerError, "InternalError")
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (e *emulator) list(w http.ResponseWriter, r *http.Request, q url.Values) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	dir := q.Get("directory")
	if _, ok := e.dir(dir); dir != "" && !ok {
		refuse(w, http.StatusNotFound, "PathNotFound")
		return
	}
	files, err := e.filesIn(r.Context(), dir)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalError")
		return
	}
	entries := make(map[string]lakePath)
	for _, f := range files {
		entries[*f.Name] = lakePath{Name: *f.Name, ContentLength: fmt.Sprint(*f.Properties.ContentLength), ETag: strings.Trim(string(*f.Properties.ETag), `"`),
			LastModified: f.Properties.LastModified.UTC().Format(http.TimeFormat)}
	}
	e.dirsMu.Lock()
	for p, n := range e.dirs {
		if parentOf(p) == dir {
			entries[p] = lakePath{Name: p, IsDirectory: "true", ETag: strings.Trim(n.etag, `"`), LastModified: n.mod.UTC().Format(http.TimeFormat)}
		}
	}
	e.dirsMu.Unlock()
	var names []string
	after, err := base64.URLEncoding.DecodeString(q.Get("continuation"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidQueryParameterValue")
		return
	}
	for name := range entries {
		if name > string(after) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	most, err := strconv.Atoi(q.Get("maxResults"))
	if err != nil || q.Get("recursive") != "false" {
		refuse(w, http.StatusBadRequest, "InvalidQueryParameterValue")
		return
	}
	if len(names) > most {
		names = names[:most]
		w.Header().Set("x-ms-continuation", base64.URLEncoding.EncodeToString([]byte(names[most-1])))
	}
	page := struct {
		Paths []lakePath `json:"paths"`
	}{Paths: []lakePath{}}
	for _, name := range names {
		page.Paths = append(page.Paths, entries[name])
	}
	if err := json.NewEncoder(w).Encode(page); err != nil {
		e.t.Log(err)
	}
}

func (e *emulator) mkdir(w http.ResponseWriter, r *http.Request, path string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.changed()
	_, ok := e.dir(path)
	if ok || e.isFile(r.Context(), path) {
		refuse(w, http.StatusConflict, "PathAlreadyExists")
		return
	}
	e.addParents(path)
	n := &node{etag: nextETag(), mod: time.Now(), props: r.Header.Get("x-ms-properties")}
	e.dirsMu.Lock()
	e.dirs[path] = n
	e.dirsMu.Unlock()
	w.Header().Set("ETag", n.etag)
	w.WriteHeader(http.StatusCreated)
}

func (e *emulator) remove(w http.ResponseWriter, r *http.Request, path string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.changed()
	if _, ok := e.dir(path); ok {
		if empty, err := e.empty(r.Context(), path); err != nil || !empty {
			refuse(w, http.StatusConflict, "DirectoryNotEmpty")
			return
		}
		e.dirsMu.Lock()
		delete(e.dirs, path)
		e.dirsMu.Unlock()
		w.WriteHeader(http.StatusOK)
		return
	}
	if _, err := e.blobs.NewBlobClient(path).Delete(r.Context(), nil); err != nil {
		refuse(w, http.StatusNotFound, "PathNotFound")
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (e *emulator) head(w http.ResponseWriter, r *http.Request, path string) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if n, ok := e.dir(path); ok || path == "" {
		w.Header().Set("ETag", n.etag)
		w.Header().Set("Last-Modified", n.mod.UTC().Format(http.TimeFormat))
		w.Header().Set("x-ms-resource-type", "directory")
		w.Header().Set("x-ms-properties", n.props)
		return
	}
	if !e.isFile(r.Context(), path) {
		w.Header().Set("x-ms-error-code", "PathNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("x-ms-resource-type", "file")
}

func (e *emulator) rename(w http.ResponseWriter, r *http.Request, dst, src string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.changed()
	ctx := r.Context()
	_, srcDir := e.dir(src)
	if !srcDir && !e.isFile(ctx, src) {
		refuse(w, http.StatusNotFound, "SourcePathNotFound")
		return
	}
	if parent := parentOf(dst); parent != "" {
		if _, ok := e.dir(parent); !ok {
			refuse(w, http.StatusNotFound, "RenameDestinationParentPathNotFound")
			return
		}
	}
	_, dstDir := e.dir(dst)
	if dstDir || srcDir && e.isFile(ctx, dst) {
		refuse(w, http.StatusConflict, "PathAlreadyExists")
		return
	}
	moves := map[string]string{src: dst}
	if srcDir {
		moves = make(map[string]string)
		files, err := e.files(ctx, src)
		if err != nil {
			refuse(w, http.StatusInternalServerError, "InternalError")
			return
		}
		for _, f := range files {
			moves[*f.Name] = dst + strings.TrimPrefix(*f.Name, src)
		}
	}
	for from, to := range moves {
		if _, err := e.blobs.NewBlobClient(to).StartCopyFromURL(ctx, e.blobs.NewBlobClient(from).URL(), nil); err != nil {
			e.t.Errorf("emulator: %v", err)
			refuse(w, http.StatusInternalServerError, "InternalError")
			return
		}
		if _, err := e.blobs.NewBlobClient(from).Delete(ctx, nil); err != nil {
			refuse(w, http.StatusInternalServerError, "InternalError")
			return
		}
	}
	e.dirsMu.Lock()
	for p, n := range e.dirs {
		if srcDir && (p == src || strings.HasPrefix(p, src+"/")) {
			delete(e.dirs, p)
			e.dirs[dst+strings.TrimPrefix(p, src)] = n
		}
	}
	e.dirsMu.Unlock()
	w.WriteHeader(http.StatusCreated)
}

func (e *emulator) accessOf(ctx context.Context, path string) *acl {
	_, ok := e.dir(path)
	if path != "" && !ok && !e.isFile(ctx, path) {
		return nil
	}
	a := e.access[path]
	if a == nil {
		a = &acl{"$superuser", "$superuser", "rw-r-----", "user::rw-,group::r--,other::---"}
		e.access[path] = a
	}
	return a
}

func (e *emulator) getAccess(w http.ResponseWriter, r *http.Request, path string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.accessOf(r.Context(), path)
	if a == nil {
		w.Header().Set("x-ms-error-code", "PathNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("x-ms-owner", a.owner)
	w.Header().Set("x-ms-group", a.group)
	w.Header().Set("x-ms-permissions", a.permissions)
	w.Header().Set("x-ms-acl", a.acl)
}

func (e *emulator) setAccess(w http.ResponseWriter, r *http.Request, path string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.accessOf(r.Context(), path)
	if a == nil {
		refuse(w, http.StatusNotFound, "PathNotFound")
		return
	}
	for name, v := range map[string]*string{"x-ms-owner": &a.owner, "x-ms-group": &a.group, "x-ms-acl": &a.acl} {
		if got := r.Header.Get(name); got != "" {
			*v = got
		}
	}
	if got := r.Header.Get("x-ms-acl"); got != "" && !strings.HasSuffix(a.permissions, "+") {
		a.permissions += "+"
	}
	if got := r.Header.Get("x-ms-permissions"); got != "" {
		m, err := parseMode(got)
		if err != nil || len(got) != 4 {
			refuse(w, http.StatusBadRequest, "InvalidPermissions")
			return
		}
		p := []byte(m.Perm().String()[1:])
		if strings.HasPrefix(got, "1") {
			p[8] = map[byte]byte{'x': 't', '-': 'T'}[p[8]]
		}
		a.permissions = string(p)
	}
}
