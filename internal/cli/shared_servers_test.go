package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// process is a server that a test has started.
type process struct {
	*exec.Cmd
	out string // file of what it printed
}

// startServer starts a server and waits for a line of its output.
func (w *world) startServer(name, ready string, args ...string) *process {
	w.t.Helper()
	p := &process{Cmd: w.command(args...), out: filepath.Join(w.dir, name+".out")}
	f, err := os.Create(p.out)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	p.Stdout, p.Stderr = f, f
	if err := p.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { p.end(syscall.SIGKILL) })
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(p.printed(w.t), ready) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s is not ready:\n%s", name, p.printed(w.t))
		}
		time.Sleep(5 * time.Millisecond)
	}
	return p
}

func (p *process) printed(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(p.out)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// end ends the server, unless it has ended.
func (p *process) end(sig syscall.Signal) error {
	if p.ProcessState != nil {
		return nil
	}
	if err := p.Process.Signal(sig); err != nil {
		return err
	}
	return p.Wait()
}

// TestSeparateServers: admin and metadata server as processes of their own, and what
// goes on while the first is away.
func TestSeparateServers(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	w := newWorld(t)
	adminAddr, metaAddr := "localhost:"+testserver.Port(t), "localhost:"+testserver.Port(t)
	config := filepath.Join(w.dir, "admin.toml")
	firstToken := filepath.Join(w.dir, "first")
	text := fmt.Sprintf("dir = %q\nlisten = %q\nhost = [\"files.example.com\"]\ntoken-file = %q\n", filepath.Join(w.dir, "admin"), adminAddr, firstToken)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	serveAdmin := []string{"serve", "admin", "--config", config}
	admin := w.startServer("admin", "fingerprint sha256:", serveAdmin...)
	eventually(t, "the first token", func() bool { _, err := os.Stat(firstToken); return err == nil })
	if !strings.Contains(admin.printed(t), "files.example.com") {
		t.Error(admin.printed(t))
	}
	fingerprint := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(admin.printed(t))
	w.refuse(1, "no admin server is known", "admin", "list", "volume")
	w.must("admin", "login", "--addr", adminAddr, "--token-file", firstToken, "--fingerprint", fingerprint)
	w.must("admin", "create", "store", "data", "--url", "file://"+filepath.Join(w.dir, "blocks"))
	var ms adminapi.MetadataServer
	w.mustJSON(&ms, "admin", "create", "metadata-server", "m1", "--address", metaAddr)
	w.must("admin", "create", "volume", "photos", "--store", "data", "--metadata-server", "m1", "--block-size", "1MiB")
	var token adminapi.Token
	w.mustJSON(&token, "admin", "create", "token", "--volume", "photos")

	serveMeta := []string{"serve", "meta", "--dir", filepath.Join(w.dir, "meta"), "--listen", metaAddr}
	w.refuse(2, "--admin is missing: this is the first start", serveMeta...)
	w.refuse(1, "kind metadata-server", append(serveMeta, "--admin", adminAddr, "--token-file", w.secretFile("wrong", token.Token), "--fingerprint", fingerprint)...)
	meta := w.startServer("meta", "metadata server m1 on", append(serveMeta, "--admin", adminAddr, "--token-file", w.secretFile("right", ms.Token), "--fingerprint", fingerprint)...)

	w.must("creds", "init", "--admin", adminAddr, "--token-file", w.secretFile("token", token.Token), "--fingerprint", fingerprint)
	w.must("mount", adminAddr+"/photos", w.mnt)
	w.write("a", random(t, 3<<20))
	a := w.read("a")
	second := filepath.Join(w.dir, "second")
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	w.must("mount", adminAddr+"/photos", second)
	t.Cleanup(func() { w.run("umount", "--force", second) })
	if data, err := os.ReadFile(filepath.Join(second, "a")); err != nil || string(data) != a {
		t.Errorf("another mount sees something else: %v", err)
	}
	// A volume that is made while the server runs is served at once.
	w.must("admin", "create", "volume", "more", "--store", "data", "--metadata-server", "m1")

	// The admin server is away: mounts go on, also over a restart of the metadata
	// server, and no new ones begin.
	if err := admin.end(syscall.SIGTERM); err != nil {
		t.Errorf("admin server: %v\n%s", err, admin.printed(t))
	}
	w.write("b", "while the admin server is away")
	if err := meta.end(syscall.SIGTERM); err != nil {
		t.Errorf("metadata server: %v\n%s", err, meta.printed(t))
	}
	meta = w.startServer("meta", "metadata server m1 on", serveMeta...)
	if !strings.Contains(meta.printed(t), "the admin server is away") {
		t.Error(meta.printed(t))
	}
	third := filepath.Join(w.dir, "third")
	if err := os.Mkdir(third, 0o755); err != nil {
		t.Fatal(err)
	}
	w.refuse(1, "connection refused", "mount", adminAddr+"/photos", third)

	// It is back, and everything is as it was.
	admin = w.startServer("admin", "fingerprint "+fingerprint, serveAdmin...)
	if w.read("b") != "while the admin server is away" {
		t.Error("another content")
	}
	w.write("c", "afterwards")
	if data, err := os.ReadFile(filepath.Join(second, "c")); err != nil || string(data) != "afterwards" {
		t.Errorf("%q, %v", data, err)
	}
	w.must("umount", second)
	w.must("umount", w.mnt)
	if err := admin.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	w.must("serve", "admin", "--dir", filepath.Join(w.dir, "admin"), "--new-token", "--token-file", filepath.Join(w.dir, "new"))
	for _, p := range []*process{admin, meta} {
		for _, secret := range []string{token.Token, ms.Token} {
			if strings.Contains(p.printed(t), secret) {
				t.Errorf("a token is in %s", p.out)
			}
		}
	}
}
