package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// driver is a running wildland-fuse, used as its clients use it: by its socket and
// through the kernel.
type driver struct {
	*testing.T
	w    *world
	sock string
}

// patience is how long something may take that happens for certain.
const patience = time.Minute

// startDriver starts wildland-fuse in the background.
func startDriver(t *testing.T, options ...string) *driver {
	t.Helper()
	needFUSE(t)
	w := newWorld(t)
	dir, err := os.MkdirTemp("", "wl") // names of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &driver{T: t, w: w, sock: filepath.Join(dir, "wlfuse.sock")}
	args := append([]string{"socket=" + d.sock, "log=" + filepath.Join(w.dir, "log"), "fsname=wildland", "subtype=wildland"}, options...)
	cmd := w.command(w.mnt, "-o", strings.Join(args, ","))
	cmd.Args[0] = "wildland-fuse"
	if out, err := cmd.CombinedOutput(); err != nil || len(out) != 0 {
		t.Fatalf("wildland-fuse: %v\n%s", err, out)
	}
	return d
}

// client is a connection to the socket.
type client struct {
	d      *driver
	c      *net.UnixConn
	r      *bufio.Reader
	events []map[string]any
}

func (d *driver) dial() *client {
	d.Helper()
	c, err := net.Dial("unix", d.sock)
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * patience))
	return &client{d: d, c: c.(*net.UnixConn), r: bufio.NewReader(c)}
}

func (c *client) send(text string) {
	c.d.Helper()
	if _, err := io.WriteString(c.c, text); err != nil {
		c.d.Fatal(err)
	}
}

// message reads up to the next empty line.
func (c *client) message() string {
	c.d.Helper()
	var b strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			c.d.Fatalf("%q: %v", b.String(), err)
		}
		if line == "\n" {
			return b.String()
		}
	}
}

// answer is a reply.
type answer struct {
	Result json.RawMessage
	Error  *struct{ Class, Desc string }
	ID     json.RawMessage
	Event  []map[string]any
}

// call sends a command and waits for its reply; events that come meanwhile are kept.
func (c *client) call(cmd, args string) answer {
	c.d.Helper()
	c.send(fmt.Sprintf("{\"cmd\": %q, \"args\": %s}\n\n", cmd, args))
	return c.reply()
}

func (c *client) reply() answer {
	c.d.Helper()
	for {
		var a answer
		if err := json.Unmarshal([]byte(c.message()), &a); err != nil {
			c.d.Fatal(err)
		}
		if a.Event == nil {
			return a
		}
		c.events = append(c.events, a.Event...)
	}
}

// must is call that fails the test on an error, and returns the result on one line.
func (c *client) must(cmd, args string) string {
	c.d.Helper()
	a := c.call(cmd, args)
	if a.Error != nil {
		c.d.Fatalf("%s %s: %+v", cmd, args, *a.Error)
	}
	var b strings.Builder
	b.Write(a.Result)
	return strings.Join(strings.Fields(b.String()), "")
}

// refused is call that fails the test without an error of the class.
func (c *client) refused(class, cmd, args string) string {
	c.d.Helper()
	a := c.call(cmd, args)
	if a.Error == nil || a.Error.Class != class {
		c.d.Errorf("%s %s: %+v, want %s", cmd, args, a, class)
		return ""
	}
	return a.Error.Desc
}

// item is an item of the command mount.
func item(storage string, rest string, paths ...string) string {
	list, _ := json.Marshal(paths)
	if rest != "" {
		rest = ", " + rest
	}
	return fmt.Sprintf(`{"paths": %s, "storage": %s%s}`, list, storage, rest)
}

func (c *client) mount(items ...string) {
	c.d.Helper()
	c.must("mount", `{"items": [`+strings.Join(items, ",")+`]}`)
}

// dir makes a directory with files, each with its name as content; "name/" is a directory.
func (d *driver) dir(name string, files ...string) string {
	d.Helper()
	root := filepath.Join(d.w.dir, name)
	if err := os.MkdirAll(root, 0o755); err != nil {
		d.Fatal(err)
	}
	for _, f := range files {
		full := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			d.Fatal(err)
		}
		if strings.HasSuffix(f, "/") {
			os.MkdirAll(full, 0o755)
		} else if err := os.WriteFile(full, []byte(f), 0o644); err != nil {
			d.Fatal(err)
		}
	}
	return root
}

func localStorage(dir string) string {
	return fmt.Sprintf(`{"type": "local", "location": %q, "owner": "0xaaa", "container-path": "/.uuid/%s", "backend-id": "%s"}`, dir, filepath.Base(dir), filepath.Base(dir))
}

func (d *driver) path(p string) string { return filepath.Join(d.w.mnt, p) }

// lists checks the names in a directory of the mount.
func (d *driver) lists(p string, want ...string) {
	d.Helper()
	entries, err := os.ReadDir(d.path(p))
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	sort.Strings(want)
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		d.Errorf("%s lists %q, %v; want %q", p, got, err, want)
	}
}

func (d *driver) reads(p, want string) {
	d.Helper()
	if got, err := os.ReadFile(d.path(p)); err != nil || string(got) != want {
		d.Errorf("%s is %q, %v; want %q", p, got, err, want)
	}
}

func (d *driver) mode(p string, want os.FileMode) {
	d.Helper()
	info, err := os.Stat(d.path(p))
	if err != nil || info.Mode().Perm() != want {
		d.Errorf("%s: %v, %v; want %o", p, info, err, want)
	}
}

func (d *driver) fails(err error, what string, errnos ...syscall.Errno) {
	d.Helper()
	for _, e := range errnos {
		if errors.Is(err, e) {
			return
		}
	}
	d.Errorf("%s: %v, want %v", what, err, errnos)
}

func (d *driver) ok(err error) {
	d.Helper()
	if err != nil {
		d.Error(err)
	}
}

// The session of the documentation's quick start, with nc where there is one.
func TestWildlandQuickStart(t *testing.T) {
	d := startDriver(t)
	dir := d.dir("tmp", "a", "sub/b")
	request := fmt.Sprintf(`{ "cmd": "mount", "args": {"items": [{ "paths": ["/foo", "/bar"], "storage": {"type": "local", "path": %q, "owner": "0xaaa"}}]}}`+"\n", dir)
	if nc, err := exec.LookPath("nc"); err == nil {
		cmd := exec.Command(nc, "-N", "-U", d.sock)
		cmd.Stdin = strings.NewReader(request)
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != "{\n  \"result\": null\n}\n\n" {
			t.Errorf("nc: %q, %v", out, err)
		}
	} else {
		c := d.dial()
		c.send(request)
		c.c.CloseWrite() // C5
		if got, err := io.ReadAll(c.r); err != nil || string(got) != "{\n  \"result\": null\n}\n\n" {
			t.Errorf("answer: %q, %v", got, err)
		}
	}
	d.lists("/", "bar", "foo")
	d.lists("/foo", "a", "sub")
	d.lists("/bar/sub", "b")
	c := d.dial()
	c.send("{ \"cmd\": \"paths\" }\n\n")
	if got, want := c.message(), "{\n  \"result\": {\n    \"/foo\": [\n      1\n    ],\n    \"/bar\": [\n      1\n    ]\n  }\n}\n\n"; got != want {
		t.Errorf("paths: %q, want %q", got, want)
	}
	c.send("{ \"cmd\": \"unmount\", \"args\": { \"storage_id\": 1 }, \"id\": 123 }\n\n")
	if got, want := c.message(), "{\n  \"result\": null,\n  \"id\": 123\n}\n\n"; got != want {
		t.Errorf("unmount: %q, want %q", got, want)
	}
	d.lists("/")

	// E8: it ends with its mount, and takes the socket along.
	out, err := exec.Command("findmnt", "-n", "-o", "FSTYPE,SOURCE", d.w.mnt).Output()
	if err == nil && strings.Join(strings.Fields(string(out)), " ") != "fuse.wildland wildland" {
		t.Errorf("findmnt: %s", out)
	}
	if err := syscall.Unmount(d.w.mnt, 0); err != nil {
		if out, err := exec.Command("fusermount3", "-u", d.w.mnt).CombinedOutput(); err != nil {
			t.Fatalf("fusermount3: %v %s", err, out)
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Lstat(d.sock); errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the socket stays")
		}
	}
}

// C1–C22 of the acceptance cases, as far as they need a driver; package door/control has
// those of the framing.
func TestWildlandControl(t *testing.T) {
	d := startDriver(t, "default_user=0xabc", "breakpoint")
	a, b := d.dir("a", "f1", "both", "conflict.jpg", "sub/x"), d.dir("b", "f2", "conflict.jpg", "sub/y")
	c := d.dial()
	if got := c.must("status", "{}"); got != `{"default-user":"0xabc"}` {
		t.Errorf("status: %s", got)
	}
	if got := c.must("test", `{"foo": "bar", "test-arg": [1]}`); got != `{"kwargs":{"foo":"bar","test_arg":[1]}}` { // C3, C10
		t.Errorf("test: %s", got)
	}
	if got := c.must("breakpoint", "{}"); got != "null" {
		t.Errorf("breakpoint: %s", got)
	}
	c.send("malformed\n\n") // C6
	if a := c.reply(); a.Error == nil || a.Error.Class != "ControlRequestError" || a.Error.Desc != "Failed to parse request" {
		t.Errorf("malformed: %+v", a)
	}
	c.send("{\"cmd\": \"unmount\", \"args\": {\"storage-id\": 9}, \"id\": \"x\"}\n\n") // C7, C14
	if a := c.reply(); a.Error == nil || a.Error.Class != "WildlandError" || a.Error.Desc != "storage not found: 9" || string(a.ID) != `"x"` {
		t.Errorf("unmount of nothing: %+v", a)
	}
	c.mount(item(localStorage(a), "", "/container1"))
	if got := c.must("paths", "{}"); got != `{"/container1":[1]}` { // C8
		t.Errorf("paths: %s", got)
	}
	if got := c.must("info", "{}"); got != `{"1":{"paths":["/container1"],"type":"local","extra":{}}}` { // C9
		t.Errorf("info: %s", got)
	}
	if got := c.refused("WildlandError", "mount", `{"items": [`+item(localStorage(b), "", "/container1")+`]}`); got != `[WildlandError('Storage already mounted under main path: /container1')]` { // C11
		t.Errorf("second mount: %s", got)
	}
	c.mount(item(localStorage(a), `"extra": {"tag": "t"}`, "/container2", "/both"))
	c.mount(item(localStorage(b), `"remount": true`, "/container1", "/new")) // C12
	if got := c.must("paths", "{}"); got != `{"/container2":[2],"/both":[2],"/container1":[3],"/new":[3]}` {
		t.Errorf("paths after the remount: %s", got)
	}
	if got := c.must("info", "{}"); got != `{"2":{"paths":["/container2","/both"],"type":"local","extra":{"tag":"t"}},"3":{"paths":["/container1","/new"],"type":"local","extra":{}}}` {
		t.Errorf("info: %s", got)
	}
	d.lists("/", "both", "container1", "container2", "new")
	c.refused("SchemaError", "unmount", `{"storage-id": "XXX"}`) // C14
	c.refused("AssertionError", "zz", `{}`)                      // C18
	for _, args := range []string{                               // C21
		`{"items": [], "zz": 1}`, `{"items": 1}`, `{"items": [{"paths": [], "storage": {}}]}`,
		`{"items": [{"paths": ["x"], "storage": {}}]}`, `{"items": [{"paths": ["//x"], "storage": {}}]}`, `{"items": [{"paths": ["/x"], "storage": {}, "zz": 1}]}`, `{}`,
	} {
		c.refused("SchemaError", "mount", args)
	}
	if got := c.refused("KeyError", "mount", `{"items": [`+item(`{"type": "zz"}`, "", "/x")+`]}`); !strings.HasPrefix(got, "'zz'") || !strings.Contains(got, "local-cached") {
		t.Errorf("unknown kind: %s", got)
	}
	if got := c.refused("KeyError", "mount", `{"items": [`+item(`{"type": "local"}`, "", "/x")+`]}`); got != "'location'" {
		t.Errorf("missing parameter: %s", got)
	}
	c.must("unmount", `{"storage-id": 2.0}`)
	c.must("unmount", `{"storage_id": 3}`) // C13, C19
	d.lists("/")

	// C15, C16: who owns the directory.
	foreign := strings.Replace(localStorage(a), "{", `{"is-local-owner": false, `, 1)
	eager := `{"lazy": false, "items": [` + item(foreign, "", "/owned") + `]}`
	if got := c.refused("WildlandError", "mount", eager); !strings.Contains(got, ".wildland-owners") {
		t.Errorf("without an owners file: %s", got)
	}
	if got := c.must("paths", "{}"); got != "{}" {
		t.Errorf("a storage that was refused is mounted: %s", got)
	}
	d.ok(os.WriteFile(filepath.Join(d.w.dir, ".wildland-owners"), []byte("# who\n 0xaaa # me"), 0o644))
	c.must("mount", eager)
	d.lists("/owned", "both", "conflict.jpg", "f1", "sub")
	c.must("unmount", `{"storage-id": 4}`)

	// C17: fileinfo and dirinfo.
	c.mount(item(localStorage(a), "", "/x", "/m"), item(localStorage(b), `"read-only": true`, "/y/z", "/m"))
	storage := func(id int, name string, ro bool, hash string) string {
		return fmt.Sprintf(`{"storage":{"container-path":"/.uuid/%s","backend-id":"%s","owner":"0xaaa","read-only":%v,"hash":"%s","id":%d}`, name, name, ro, hash, id)
	}
	first := c.must("fileinfo", `{"path": "/x/f1"}`)
	hashA := first[strings.Index(first, `"hash":"`)+8:][:36]
	if want := storage(5, "a", false, hashA); !strings.HasPrefix(first, want+`,"token":`) {
		t.Errorf("fileinfo: %s, want %s", first, want)
	}
	third := c.must("fileinfo", `{"path": "/m/conflict.wl_6.jpg"}`)
	hashB := third[strings.Index(third, `"hash":"`)+8:][:36]
	if want := storage(6, "b", true, hashB); !strings.HasPrefix(third, want) || hashA == hashB {
		t.Errorf("fileinfo of a file in conflict: %s, want %s", third, want)
	}
	for _, p := range []string{"/m/conflict.jpg", "/zz", "/x", "/y", "/"} {
		if got := c.must("fileinfo", fmt.Sprintf(`{"path": %q}`, p)); got != "{}" {
			t.Errorf("fileinfo of %s: %s", p, got)
		}
	}
	A, B := storage(5, "a", false, hashA)+"}", storage(6, "b", true, hashB)+"}"
	for p, want := range map[string]string{
		"/x/sub": "[" + A + "]", "/m/sub": "[" + A + "," + B + "]", "/m": "[" + A + "," + B + "," + A + "," + B + "]", "/y": "[" + B + "]", "/x/f1": "[]", "/zz": "[]",
	} {
		if got := c.must("dirinfo", fmt.Sprintf(`{"path": %q}`, p)); got != want {
			t.Errorf("dirinfo of %s: %s, want %s", p, got, want)
		}
	}
	c.refused("TypeError", "fileinfo", "{}")
	c.mount(item(`{"type": "dummy"}`, "", "/dummy"))
	if got := c.refused("KeyError", "dirinfo", `{"path": "/dummy"}`); got != "'container-path'" {
		t.Errorf("dirinfo without: %s", got)
	}

	// All good items are mounted, whatever the others are.
	c.refused("WildlandError", "mount", `{"items": [`+item(`{"type": "zz"}`, "", "/p")+","+item(`{}`, "", "/q")+","+item(`{"type": "dummy"}`, "", "/good")+`]}`)
	d.lists("/", "dummy", "good", "m", "x", "y")

	c.send("\r\n\n{\"cmd\":\r\n\"test\",\n\n{\"cmd\": \"test\",\r\n\"id\": 1}\r\n\r\n") // C20
	if x, y := c.reply(), c.reply(); x.Error == nil || string(y.ID) != "1" {
		t.Errorf("frames: %+v, %+v", x, y)
	}
	// A living driver keeps its socket.
	other := filepath.Join(d.w.dir, "other")
	d.ok(os.Mkdir(other, 0o755))
	cmd := d.w.command(other, "-o", "socket="+d.sock)
	cmd.Args[0] = "wildland-fuse"
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "a living process serves it") {
		t.Errorf("second driver: %v, %s", err, out)
	}
	if got := d.dial().must("test", "{}"); got != `{"kwargs":{}}` {
		t.Errorf("the first one: %s", got)
	}
}

// F1–F9 for the three kinds of local directories.
func TestWildlandFiles(t *testing.T) {
	d := startDriver(t)
	c := d.dial()
	for i, kind := range []string{"local", "local-cached", "local-dir-cached"} {
		t.Run(kind, func(t *testing.T) {
			d := &driver{T: t, w: d.w, sock: d.sock}
			name := func(s string) string { return fmt.Sprintf("%s%d", s, i) }
			root := d.dir(name("s"), "file", "sub/inner")
			other := d.dir(name("o"), "x")
			at, at2 := "/"+name("c"), "/"+name("d")
			storage := strings.Replace(localStorage(root), `"local"`, fmt.Sprintf("%q", kind), 1)
			c.mount(item(storage, "", at), item(localStorage(other), "", at2))
			_, err := os.Stat(d.path("/nothing"))
			d.fails(err, "an unknown name", syscall.ENOENT) // F1
			d.mode("/", 0o555)
			d.lists(at, "file", "sub") // F2
			d.mode(at+"/file", 0o644)
			d.reads(at+"/file", "file")
			d.ok(os.WriteFile(d.path(at+"/new"), []byte("new"), 0o644))
			d.mode(at+"/new", 0o644)
			if data, err := os.ReadFile(filepath.Join(root, "new")); string(data) != "new" || err != nil {
				d.Errorf("underneath: %q, %v", data, err)
			}
			d.ok(os.Mkdir(d.path(at+"/dir"), 0o755))
			d.mode(at+"/dir", 0o755)
			d.ok(os.Remove(d.path(at + "/dir")))
			d.ok(os.Remove(d.path(at + "/new")))
			d.lists(at, "file", "sub")
			d.ok(os.WriteFile(filepath.Join(root, "below"), []byte("1"), 0o644)) // F3
			c.must("clear-cache", "{}")
			d.lists(at, "below", "file", "sub")
			d.ok(os.Chtimes(d.path(at+"/file"), time.Unix(1e9, 5), time.Unix(1e9, 5)))

			f, err := os.Open(d.path(at + "/file")) // F7
			d.ok(err)
			buf := make([]byte, 2)
			if n, err := f.ReadAt(buf, 1); n != 2 || err != nil || string(buf) != "il" {
				d.Errorf("read at 1: %q, %v", buf, err)
			}
			f.Close()

			d.ok(os.Rename(d.path(at+"/file"), d.path(at+"/sub/moved"))) // F8
			d.ok(os.Rename(d.path(at+"/sub"), d.path(at+"/sub2")))
			d.reads(at+"/sub2/moved", "file")
			d.fails(os.Rename(d.path(at+"/below"), d.path(at2+"/below")), "rename between storages", syscall.EXDEV)
			d.fails(os.Rename(d.path(at), d.path("/zz")), "rename of a mount point", syscall.EACCES)
			d.fails(os.Remove(d.path(at)), "removal of a mount point", syscall.ENOTEMPTY, syscall.EISDIR)
			d.fails(os.Mkdir(d.path("/zz"), 0o755), "mkdir in /", syscall.EROFS)
			d.fails(os.Symlink("x", d.path(at+"/l")), "symlink", syscall.ENOSYS)
			d.fails(os.Link(d.path(at+"/below"), d.path(at+"/l")), "link", syscall.EPERM)

			for link, to := range map[string]string{"lf": "below", "ld": "sub2", "dangling": "zz", "out": other + "/x"} { // F9
				d.ok(os.Symlink(to, filepath.Join(root, link)))
			}
			d.reads(at+"/lf", "1")
			d.lists(at+"/ld", "inner", "moved")
			if info, err := os.Lstat(d.path(at + "/lf")); err != nil || !info.Mode().IsRegular() {
				d.Errorf("a link to a file: %v, %v", info, err)
			}
			_, err = os.Lstat(d.path(at + "/dangling"))
			d.fails(err, "a dangling link", syscall.ENOENT)
			_, err = os.Stat(d.path(at + "/out"))
			d.fails(err, "a link that leads out", syscall.EXDEV)
			_, err = os.Open(d.path(at + "/out"))
			d.fails(err, "its open", syscall.EXDEV)

			late := filepath.Join(d.w.dir, name("late")) // F4
			storage = strings.Replace(localStorage(late), `"local"`, fmt.Sprintf("%q", kind), 1)
			c.mount(item(storage, "", "/"+name("late")))
			names, err := os.ReadDir(d.path("/"))
			found := false
			for _, e := range names {
				found = found || e.Name() == name("late")
			}
			if err != nil || !found {
				d.Errorf("what does not exist yet is not shown: %v, %v", names, err)
			}
			_, err = os.ReadDir(d.path("/" + name("late")))
			if kind == "local" {
				d.fails(err, "its listing", syscall.ENOENT)
			} else {
				d.ok(err)
			}
			if err := os.WriteFile(d.path("/"+name("late")+"/f"), nil, 0o644); err == nil {
				d.Error("a file was made in what does not exist")
			}
			d.ok(os.Mkdir(late, 0o755))
			c.must("clear-cache", "{}")
			d.ok(os.WriteFile(d.path("/"+name("late")+"/f"), []byte("f"), 0o644))
		})
	}
}

// F5, F6, F10.
func TestWildlandMerging(t *testing.T) {
	d := startDriver(t)
	c := d.dial()
	ro, rw := d.dir("ro", "ro-file", "d/x"), d.dir("rw", "rw-file", "d/y")
	c.mount(item(localStorage(ro), `"read-only": true`, "/ro"))
	d.mode("/ro", 0o555) // F5
	d.mode("/ro/ro-file", 0o444)
	d.fails(os.Remove(d.path("/ro/ro-file")), "unlink", syscall.EROFS)
	d.fails(os.Truncate(d.path("/ro/ro-file"), 0), "truncate", syscall.EROFS, syscall.EACCES)
	_, err := os.OpenFile(d.path("/ro/ro-file"), os.O_WRONLY, 0)
	d.fails(err, "open for writing", syscall.EROFS, syscall.EACCES)
	d.fails(os.WriteFile(d.path("/ro/new"), nil, 0o644), "create", syscall.EROFS)
	d.fails(os.Mkdir(d.path("/ro/new"), 0o755), "mkdir", syscall.EROFS)
	d.fails(os.Remove(d.path("/ro/d")), "rmdir", syscall.EROFS)

	c.mount(item(localStorage(ro), `"read-only": true`, "/m1", "/m"), item(localStorage(rw), "", "/m2", "/m")) // F6
	d.lists("/m", "d", "ro-file", "rw-file")
	d.lists("/m/d", "x", "y")
	d.mode("/m/ro-file", 0o444)
	d.mode("/m/rw-file", 0o644)
	d.mode("/m", 0o755)
	d.ok(os.WriteFile(d.path("/m/new"), []byte("n"), 0o644))
	d.ok(os.Mkdir(d.path("/m/newdir"), 0o755))
	if _, err := os.Stat(filepath.Join(rw, "new")); err != nil {
		t.Error(err)
	}
	d.ok(os.Remove(d.path("/m/newdir")))
	d.fails(os.Remove(d.path("/m/ro-file")), "unlink of the read-only file", syscall.EROFS)

	s1, s2 := d.dir("s1", "nested1/file-conflict", "nested1/only1"), d.dir("s2", "file-conflict", "only2") // F10
	c.mount(item(localStorage(s1), "", "/container1"), item(localStorage(s2), "", "/container1/nested1", "/nested2"))
	d.lists("/container1/nested1", "file-conflict.wl_4", "file-conflict.wl_5", "only1", "only2")
	d.ok(os.WriteFile(d.path("/container1/nested1/file-conflict.wl_4"), []byte("changed"), 0o644))
	if data, _ := os.ReadFile(filepath.Join(s1, "nested1/file-conflict")); string(data) != "changed" {
		t.Errorf("storage 4 has %q", data)
	}
	d.fails(os.WriteFile(d.path("/container1/nested1/new"), nil, 0o644), "new file in the merged directory", syscall.EROFS)
	d.reads("/container1/nested1/only1", "nested1/only1") // the kernel knows the name
	d.ok(os.WriteFile(d.path("/nested2/only1"), []byte("2"), 0o644))
	d.lists("/container1/nested1", "file-conflict.wl_4", "file-conflict.wl_5", "only1.wl_4", "only1.wl_5", "only2")
	d.reads("/container1/nested1/only1.wl_5", "2")

	// A storage is unmounted under what is open there.
	f, err := os.Open(d.path("/m1/ro-file"))
	d.ok(err)
	defer f.Close()
	c.must("unmount", `{"storage-id": 2}`)
	d.vanishes("/m1")
	d.lists("/m", "d", "new", "rw-file")
}

// B1, B2, B6 and the file as a mount point.
func TestWildlandKinds(t *testing.T) {
	d := startDriver(t)
	c := d.dial()
	inner := d.dir("inner", "top", "dir/deep/f")
	c.mount(
		item(`{"type": "static", "content": {}}`, "", "/static-empty"),
		item(`{"type": "static", "content": {"foo.txt": "foo data", "dir": {"bar.txt": "bar", "empty": {}}}}`, "", "/static"),
		item(`{"type": "dummy"}`, "", "/dummy"),
		item(`{"type": "pseudomanifest", "content": "title: T\n"}`, "", "/pm/.manifest.wildland.yaml", "/inner/.manifest.wildland.yaml"),
		item(localStorage(inner), "", "/inner"),
		item(`{"type": "delegate", "reference-container": "x", "subdirectory": "/dir", "storage": `+localStorage(inner)+`}`, "", "/delegate"),
	)
	d.lists("/static-empty")
	d.lists("/dummy")
	d.lists("/static", "dir", "foo.txt")
	d.lists("/static/dir", "bar.txt", "empty")
	d.lists("/static/dir/empty")
	d.reads("/static/foo.txt", "foo data")
	d.mode("/static/foo.txt", 0o444)
	d.fails(os.WriteFile(d.path("/static/foo.txt"), nil, 0o644), "write", syscall.EROFS, syscall.EACCES)
	d.fails(os.WriteFile(d.path("/dummy/x"), nil, 0o644), "create", syscall.EROFS)
	d.lists("/pm", ".manifest.wildland.yaml")
	data, err := os.ReadFile(d.path("/pm/.manifest.wildland.yaml"))
	if err != nil || !strings.HasPrefix(string(data), "#") || !strings.HasSuffix(string(data), "\ntitle: T\n") {
		t.Errorf("manifest: %q, %v", data, err)
	}
	d.lists("/inner", ".manifest.wildland.yaml", "dir", "top")
	d.ok(os.WriteFile(d.path("/inner/new"), []byte("x"), 0o644))
	d.lists("/delegate", "deep")
	d.reads("/delegate/deep/f", "dir/deep/f")
	d.ok(os.MkdirAll(d.path("/delegate/a/b"), 0o755))
	d.ok(os.WriteFile(d.path("/delegate/a/b/c"), []byte("through"), 0o644))
	if got, err := os.ReadFile(filepath.Join(inner, "dir/a/b/c")); string(got) != "through" || err != nil {
		t.Errorf("underneath: %q, %v", got, err)
	}
	if x, y := d.stat("/delegate/deep/f"), d.stat("/inner/dir/deep/f"); !x.ModTime().Equal(y.ModTime()) || x.Size() != y.Size() {
		t.Errorf("%v, %v", x, y)
	}
	f, err := os.Open(d.path("/static/foo.txt")) // B6, and what is open when it is unmounted
	d.ok(err)
	defer f.Close()
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("a file that was opened for reading is written")
	}
	c.must("unmount", `{"storage-id": 2}`)
	if _, err := f.ReadAt(make([]byte, 8), 0); !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ESTALE) && err != nil {
		t.Errorf("read after unmount: %v", err)
	}
	d.vanishes("/static/foo.txt")
}

// vanishes waits until the kernel has heard that a name is gone.
func (d *driver) vanishes(p string) {
	d.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		_, err := os.Stat(d.path(p))
		if errors.Is(err, syscall.ENOENT) {
			return
		}
		if time.Now().After(deadline) {
			d.Fatalf("%s does not vanish: %v", p, err)
		}
	}
}

func (d *driver) stat(p string) os.FileInfo {
	d.Helper()
	info, err := os.Stat(d.path(p))
	if err != nil {
		d.Fatal(err)
	}
	return info
}

// sees waits until the events of a watch contain these in this order, and returns all
// of them.
func (c *client) sees(watch int, want ...string) {
	c.d.Helper()
	for {
		var got []string
		for _, e := range c.events {
			if e["watch-id"] == float64(watch) {
				got = append(got, fmt.Sprint(e["type"], " ", e["path"], " ", e["storage-id"]))
			}
		}
		next := 0
		for _, g := range got {
			if next < len(want) && g == want[next] {
				next++
			}
		}
		if next == len(want) {
			c.events = nil
			return
		}
		var a answer
		if err := json.Unmarshal([]byte(c.message()), &a); err != nil {
			c.d.Fatalf("%v; events are %q, want %q", err, got, want)
		}
		c.events = append(c.events, a.Event...)
	}
}

// W1–W9.
func TestWildlandWatches(t *testing.T) {
	d := startDriver(t, "events=upper")
	c := d.dial()
	root := d.dir("s", "old")
	c.mount(item(localStorage(root), "", "/c", "/c2"), item(`{"type": "delegate", "reference-container": "x", "storage": `+localStorage(d.dir("t"))+`}`, "", "/d"))
	if got := c.must("add-watch", `{"storage-id": 1, "pattern": "*"}`); got != "1" {
		t.Errorf("watch id: %s", got)
	}
	d.ok(os.WriteFile(d.path("/c/new"), []byte("1"), 0o644)) // W1
	c.sees(1, "CREATE new 1", "MODIFY new 1")
	f, err := os.OpenFile(d.path("/c2/new"), os.O_APPEND|os.O_WRONLY, 0)
	d.ok(err)
	f.WriteString("2")
	f.Close()
	c.sees(1, "MODIFY new 1")
	d.ok(os.Remove(d.path("/c/new")))
	c.sees(1, "DELETE new 1")
	d.ok(os.WriteFile(filepath.Join(root, "outside"), []byte("1"), 0o644)) // W2
	c.sees(1, "CREATE outside 1", "MODIFY outside 1")
	d.ok(os.Remove(filepath.Join(root, "outside")))
	c.sees(1, "DELETE outside 1")
	d.ok(os.Mkdir(d.path("/c/dir"), 0o755)) // W3
	c.sees(1, "CREATE dir 1")
	d.ok(os.WriteFile(d.path("/c/dir/f"), []byte("1"), 0o644))
	c.sees(1, "CREATE dir/f 1", "MODIFY dir/f 1")
	d.ok(os.Rename(d.path("/c/dir"), d.path("/c/dir2")))
	c.sees(1, "DELETE dir 1", "CREATE dir2 1")
	d.ok(os.WriteFile(d.path("/c/dir2/g"), []byte("1"), 0o644))
	c.sees(1, "CREATE dir2/g 1")
	d.ok(os.MkdirAll(filepath.Join(root, "x/y/z"), 0o755)) // made before a watch can be set
	d.ok(os.WriteFile(filepath.Join(root, "x/y/z/deep"), nil, 0o644))
	c.sees(1, "CREATE x 1", "CREATE x/y 1", "CREATE x/y/z 1", "CREATE x/y/z/deep 1")
	d.ok(os.RemoveAll(d.path("/c/dir2")))
	c.sees(1, "DELETE dir2/f 1", "DELETE dir2 1")

	// W6: two watches on two paths' storage, on one connection.
	if got := c.must("add-watch", `{"storage-id": 1, "pattern": "*.txt"}`); got != "2" {
		t.Errorf("watch id: %s", got)
	}
	d.ok(os.WriteFile(d.path("/c/a.txt"), nil, 0o644))
	c.sees(2, "CREATE a.txt 1")

	// W5: own changes are silent, others are not.
	quiet := d.dial()
	quiet.must("add-watch", `{"storage-id": 1, "pattern": "*", "ignore-own": true}`)
	d.ok(os.WriteFile(d.path("/c/own"), []byte("1"), 0o644))
	d.ok(os.Mkdir(d.path("/c/owndir"), 0o755))
	d.ok(os.Remove(d.path("/c/own")))
	d.ok(os.WriteFile(filepath.Join(root, "foreign"), nil, 0o644))
	quiet.sees(3, "CREATE foreign 1")
	for _, e := range quiet.events {
		if p := e["path"]; e["type"] != "MODIFY" && (p == "own" || p == "owndir") {
			t.Errorf("an own change was told: %v", e)
		}
	}
	quiet.c.Close() // W8

	// Storages that hear nothing from below tell what is done here.
	c.must("add-watch", `{"storage-id": 2, "pattern": "*"}`)
	d.ok(os.WriteFile(d.path("/d/f"), []byte("1"), 0o644))
	c.sees(4, "CREATE f 2")
	d.ok(os.Mkdir(d.path("/d/dir"), 0o755))
	c.sees(4, "CREATE dir 2")
	d.ok(os.Truncate(d.path("/d/f"), 0))
	c.sees(4, "MODIFY f 2")
	d.ok(os.Chmod(d.path("/d/f"), 0o600))
	c.sees(4, "MODIFY f 2")
	d.ok(os.Rename(d.path("/d/f"), d.path("/d/dir/g")))
	c.sees(4, "DELETE f 2", "CREATE dir/g 2")
	d.ok(os.Remove(d.path("/d/dir/g")))
	c.sees(4, "DELETE dir/g 2")

	for args, want := range map[string]string{
		`{"storage-id": 99, "pattern": "*"}`: "No storage: 99", `{"storage-id": 1, "pattern": "/x"}`: "Pattern should not start with /", `{"storage-id": 1, "pattern": ""}`: "the pattern is empty",
	} {
		if got := c.refused("WildlandError", "add-watch", args); got != want {
			t.Errorf("add-watch %s: %s", args, got)
		}
	}
	if got := c.refused("ValueError", "add-subcontainer-watch", `{"backend-param": {"type": "dummy", "backend-id": "B"}}`); got != "Unknown storage B" {
		t.Errorf("add-subcontainer-watch: %s", got)
	}
	c.must("remove-watch", `{"watch-id": 2}`)
	c.refused("WildlandError", "remove-watch", `{"watch-id": 2}`)
	c.refused("WildlandError", "remove-watch", `{"watch-id": 3}`) // another connection's
	if got := c.must("unmount", `{"storage-id": 1}`); got != "null" {
		t.Errorf("unmount: %s", got) // W7
	}
}

// The request that the original client sends for one container, and E1: what is then mounted.
func TestWildlandContainer(t *testing.T) {
	d := startDriver(t)
	c := d.dial()
	dir := d.dir("data", "file.txt")
	paths := []string{
		"/.users/0xaaa:/.backends/CU/BU", "/.backends/CU/BU", "/.users/0xaaa:/.uuid/CU", "/.uuid/CU", "/.users/0xaaa:/PATH", "/PATH",
		"/.users/0xaaa:/OTHER", "/OTHER", "/.users/0xaaa:/cat/T", "/cat/T",
	}
	var manifests []string
	for _, p := range paths {
		manifests = append(manifests, p+"/.manifest.wildland.yaml")
	}
	manifests[0] = "/.users/0xaaa:/.backends/CU/BU-pseudomanifest/.manifest.wildland.yaml"
	extra := `"extra": {"tag": "x", "primary": true, "trusted_owner": null, "subcontainer_of": null, "title": "T", "categories": ["/cat"], "hidden": false}, "remount": true`
	storage := fmt.Sprintf(`{"object": "storage", "type": "local", "location": %q, "backend-id": "BU", "access": [{"user": "*"}], "owner": "0xaaa", "version": "1", "container-path": "/.uuid/CU", "is-local-owner": true}`, dir)
	manifest := `{"object": "storage", "type": "pseudomanifest", "content": "object: container\n", "base-dir": "/x", "primary": true, "backend-id": "BU", "owner": "0xaaa", "container-path": "/.uuid/CU", "version": "1", "hidden": true}`
	for range 2 { // also again: remounted
		c.mount(item(storage, extra, paths...), item(manifest, extra, manifests...))
	}
	var got map[string][]int
	if err := json.Unmarshal([]byte(c.must("paths", "{}")), &got); err != nil || len(got) != 20 || fmt.Sprint(got["/PATH"]) != "[3]" || fmt.Sprint(got[manifests[3]]) != "[4]" {
		t.Errorf("paths: %v, %v", got, err)
	}
	d.lists("/", ".backends", ".users", ".uuid", "OTHER", "PATH", "cat")
	for _, p := range []string{"/PATH", "/.uuid/CU", "/cat/T", "/.users/0xaaa:/OTHER"} {
		d.lists(p, ".manifest.wildland.yaml", "file.txt")
	}
	d.ok(os.WriteFile(d.path("/cat/T/new"), []byte("n"), 0o644))
	d.reads("/PATH/new", "n")
	if out := c.must("fileinfo", `{"path": "/PATH/file.txt"}`); !strings.Contains(out, `"backend-id":"BU"`) || !strings.Contains(out, `"id":3`) {
		t.Errorf("fileinfo: %s", out)
	}
	for _, id := range []string{"3", "4"} {
		c.must("unmount", `{"storage-id": `+id+`}`)
	}
	d.lists("/")
}

// Thousands of storages are mounted by one request.
func TestWildlandManyStorages(t *testing.T) {
	d := startDriver(t)
	c := d.dial()
	dir := d.dir("data", "f")
	const n = 10000
	var items []string
	for i := range n {
		items = append(items, item(fmt.Sprintf(`{"type": "local", "location": %q, "owner": "0xaaa", "backend-id": "%d"}`, dir, i), "", fmt.Sprintf("/.uuid/%d", i), fmt.Sprintf("/c/%d", i)))
	}
	began := time.Now()
	c.mount(items...)
	t.Logf("%d storages mounted in %v", n, time.Since(began))
	entries, err := os.ReadDir(d.path("/c"))
	if err != nil || len(entries) != n {
		t.Errorf("%d names, %v", len(entries), err)
	}
	d.reads("/c/9999/f", "f")
	c.must("unmount", `{"storage-id": 10000}`)
	d.vanishes("/c/9999")
}

func TestWildlandCommandLine(t *testing.T) {
	w := newWorld(t)
	for want, args := range map[string][]string{
		"one mount point is expected":      {},
		`option "socket" needs a value`:    {w.mnt, "-o", "socket="},
		`unknown option "sokcet=x"`:        {w.mnt, "-o", "sokcet=x"},
		`events "loud"`:                    {w.mnt, "-o", "events=loud"},
		"unknown shorthand flag":           {w.mnt, "-Z"},
		`option "breakpoint" takes no val`: {w.mnt, "-o", "breakpoint=1"},
	} {
		cmd := w.command(args...)
		cmd.Args[0] = "wildland-fuse"
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), strings.TrimSuffix(want, "=x\"")) {
			t.Errorf("wildland-fuse %q: %v, %s; want %s", args, err, out, want)
		}
	}
}
