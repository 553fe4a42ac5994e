package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// site is a world with servers of shared volumes, in one process, and a directory of
// its own for the files of flexFS.
type site struct {
	*world
	addr        string // of the admin server
	fingerprint string
	server      *exec.Cmd
	flexfs      string // the program under the name mount.flexfs
	userHome    string
	args        []string
	out         string // file of the server's output
}

func newSite(t *testing.T) *site {
	t.Helper()
	w := newWorld(t)
	s := &site{world: w, addr: "localhost:" + testserver.Port(t), userHome: filepath.Join(w.dir, "user"), out: filepath.Join(w.dir, "server.out")}
	w.env = append(w.env, "HOME="+s.userHome, "LIBMOUNT_FSTAB="+filepath.Join(w.dir, "fstab"))
	for _, dir := range []string{s.userHome, filepath.Join(w.dir, "bin")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.must("personalities", "install", filepath.Join(w.dir, "bin"))
	s.flexfs = filepath.Join(w.dir, "bin", "mount.flexfs")
	s.args = []string{"serve", "all", "--listen", s.addr, "--meta-listen", "localhost:" + testserver.Port(t)}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start starts the servers and waits until they answer.
func (s *site) start() {
	s.t.Helper()
	out, err := os.OpenFile(s.out, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	before := strings.Count(s.output(), "metadata server local on")
	s.server = s.command(s.args...)
	s.server.Stdout, s.server.Stderr = out, out
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the servers are ready", func() bool {
		return strings.Count(s.output(), "metadata server local on") > before
	})
	s.fingerprint = regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(s.output())
}

func (s *site) output() string {
	data, err := os.ReadFile(s.out)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return string(data)
}

// stop ends the servers cleanly.
func (s *site) stop() {
	if s.server == nil {
		return
	}
	if s.mounted(s.mnt) { // before their server goes
		s.run("umount", "--force", s.mnt)
	}
	s.server.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(time.Minute, func() { s.server.Process.Kill() })
	err := s.server.Wait()
	timer.Stop()
	if err != nil {
		s.t.Errorf("servers: %v\n%s", err, s.output())
	}
	s.server = nil
}

// flex runs mount.flexfs.
func (s *site) flex(args ...string) result {
	s.t.Helper()
	cmd := s.command(args...)
	cmd.Path, cmd.Args[0] = s.flexfs, s.flexfs
	return s.finish(cmd)
}

func (s *site) mustFlex(args ...string) string {
	s.t.Helper()
	r := s.flex(args...)
	if r.code != 0 {
		s.t.Fatalf("mount.flexfs %q: exit status %d\n%s%s%s%s", args, r.code, r.out, r.err, s.logs(), s.output())
	}
	return r.out
}

func (s *site) refuseFlex(code int, want string, args ...string) {
	s.t.Helper()
	r := s.flex(args...)
	line := strings.TrimSuffix(r.err, "\n")
	if r.code != code || !strings.HasPrefix(line, "mount.flexfs: ") || !strings.Contains(line, want) {
		s.t.Errorf("mount.flexfs %q: exit status %d, want %d; %q does not say %q", args, r.code, code, line, want)
	}
}

// token makes a token and returns it with its ID.
func (s *site) token(args ...string) (token, id string) {
	s.t.Helper()
	var t adminapi.Token
	s.mustJSON(&t, append([]string{"admin", "create", "token"}, args...)...)
	return t.Token, t.ID
}

// terminal runs a command on a terminal of its own and types the answers, each when
// its question is there. It returns what the terminal showed.
func (s *site) terminal(cmd *exec.Cmd, dialogue ...[2]string) (string, error) {
	s.t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		s.t.Skipf("no terminals here: %v", err)
	}
	defer ptmx.Close()
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		s.t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		s.t.Skipf("no terminals here: %v", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	tty.Close()
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	var shown strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := ptmx.Read(buf)
		shown.Write(buf[:n])
		if len(dialogue) > 0 && strings.Contains(shown.String(), dialogue[0][0]) {
			if _, err := io.WriteString(ptmx, dialogue[0][1]+"\n"); err != nil {
				s.t.Fatal(err)
			}
			dialogue = dialogue[1:]
		}
		if err != nil { // EIO: nobody has the terminal any more
			break
		}
	}
	err = cmd.Wait()
	if len(dialogue) > 0 {
		s.t.Errorf("was not asked %q:\n%s", dialogue[0][0], shown.String())
	}
	return shown.String(), err
}

// TestSeedCommands: the commands of the reference page, as written there.
func TestSeedCommands(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	s := newSite(t)
	s.must("admin", "create", "volume", "my-volume", "--store", "local", "--metadata-server", "local")
	token, _ := s.token("--volume", "my-volume")
	file := filepath.Join(s.userHome, ".flexfs", "mount", "creds", "my-volume")

	// mount.flexfs init creds --adminAddr admin.example.com:443 --token $TOKEN, with a
	// person who compares the fingerprint.
	init := []string{"init", "creds", "--adminAddr", s.addr, "--token", token}
	cmd := s.command(init...)
	cmd.Path, cmd.Args[0] = s.flexfs, s.flexfs
	shown, err := s.terminal(cmd, [2]string{"Is it the same? (yes/no)", "yes"})
	if err != nil || !strings.Contains(shown, s.fingerprint) || strings.Contains(shown, token) {
		t.Fatalf("%v\n%s", err, shown)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	data, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(data), `adminAddr = "`+s.addr+`"`) || !strings.Contains(string(data), `token = "`+token+`"`) {
		t.Errorf("%s, %v", data, err)
	}
	// Scripts: nobody is asked, the fingerprint is told; an existing file stays.
	s.refuseFlex(1, "there are credentials at", append(init, "--fingerprint", s.fingerprint)...)
	s.refuseFlex(1, "then give --fingerprint "+s.fingerprint, append(init, "--force")...)
	s.mustFlex(append(init, "--fingerprint", s.fingerprint, "--force")...)
	// An alias is a file under another name.
	alias := filepath.Join(filepath.Dir(file), "alias")
	s.mustFlex(append(init, "--fingerprint", s.fingerprint, "--credsFile", alias)...)
	// The token is asked for when it is not given.
	ask := s.command("init", "creds", "--adminAddr", s.addr, "--fingerprint", s.fingerprint, "--force")
	ask.Path, ask.Args[0] = s.flexfs, s.flexfs
	if shown, err := s.terminal(ask, [2]string{"Token: ", token}); err != nil || strings.Contains(shown, token) {
		t.Fatalf("%v\n%s", err, shown)
	}

	// mount.flexfs start my-volume /mnt/data, in the background.
	s.mustFlex("start", "my-volume", s.mnt)
	s.write("a", "hello")
	if err := os.MkdirAll(filepath.Join(s.mnt, "d/e"), 0o755); err != nil {
		t.Fatal(err)
	}
	big := random(t, 9<<20)
	s.write("d/e/big", big)
	s.refuseFlex(1, "is in use", "start", "my-volume", s.mnt)
	s.must("umount", s.mnt)

	// A directory that is not empty takes --nonEmpty; flags without effect are told.
	s.write("in the way", "x")
	s.refuseFlex(1, "is not empty", "start", "alias", s.mnt)
	r := s.flex("start", "alias", s.mnt, "--nonEmpty", "--ro", "--attrValid", "60", "--acl", "--xAttr", "-v", "--noExec", "--noSUID", "--umask", "022")
	if r.code != 0 || !strings.Contains(r.err, "--attrValid has no effect") || strings.Contains(r.err, "--acl") {
		t.Fatalf("%+v\n%s", r, s.logs())
	}
	if got := s.read("d/e/big"); got != big || s.read("a") != "hello" {
		t.Error("another content")
	}
	if err := os.WriteFile(filepath.Join(s.mnt, "b"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("--ro: %v", err)
	}
	// SIGTERM unmounts.
	pid := s.pidOf(s.mnt)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "SIGTERM unmounts", func() bool { return !s.mounted(s.mnt) })
	if err := os.Remove(filepath.Join(s.mnt, "in the way")); err != nil {
		t.Fatal(err)
	}

	// A dead mount is cleaned away.
	s.mustFlex("start", "my-volume", s.mnt)
	if err := syscall.Kill(s.pidOf(s.mnt), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server of the mount is dead", func() bool {
		var st unix.Statfs_t // which no cache answers
		return errors.Is(unix.Statfs(s.mnt, &st), syscall.ENOTCONN)
	})
	s.mustFlex("start", "my-volume", s.mnt)
	if s.read("a") != "hello" {
		t.Error("another content")
	}
	s.must("umount", s.mnt)

	// In the foreground, with systemd's notification.
	s.foreground(t)

	// The native twin, and bad command lines.
	s.must("creds", "init", "--admin", s.addr, "--token", token, "--fingerprint", s.fingerprint)
	s.must("mount", s.addr+"/my-volume", s.mnt)
	if s.read("a") != "hello" {
		t.Error("another content")
	}
	s.must("umount", s.mnt)
	s.refuseFlex(2, "unknown flag --bogus", "start", "my-volume", s.mnt, "--bogus")
	s.refuseFlex(2, "did you mean --credsFile", "start", "my-volume", s.mnt, "--credFile", "x")
	s.refuseFlex(2, "DIR is missing", "start", "my-volume")
	s.refuseFlex(1, "there are no credentials at", "start", "other", s.mnt)
	s.refuseFlex(2, "cannot be a volume's name", "start", "../../etc/passwd", s.mnt)
	s.refuseFlex(2, "RFC 3339", "start", "my-volume", s.mnt, "--atTime", "yesterday")
	s.refuseFlex(2, "spoken to with TLS", "start", "my-volume", s.mnt, "--noSSL")
	s.refuseFlex(2, "--adminAddr is missing", "init", "creds", "--token", token)
	s.refuseFlex(1, "not well formed", "init", "creds", "--adminAddr", s.addr, "--token", "secret-nonsense")
	s.refuseFlex(1, "not known here", "init", "creds", "--adminAddr", s.addr, "--token", adminapi.NewToken(), "--fingerprint", s.fingerprint)
	if out := s.mustFlex("version") + s.mustFlex("license"); !strings.Contains(out, "mount.flexfs") || !strings.Contains(out, "Apache") {
		t.Error(out)
	}
	s.mustFlex("deinit", "creds", "my-volume")
	s.mustFlex("deinit", "creds", "--credsFile", alias)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("deinit creds: %v", err)
	}
	// No secret is in a log.
	for what, text := range map[string]string{"log of mounts": s.logs(), "output of servers": s.output()} {
		if strings.Contains(text, token) {
			t.Errorf("the token is in the %s", what)
		}
	}
}

// pidOf is the process that serves a mount.
func (w *world) pidOf(point string) int {
	w.t.Helper()
	var rows []struct {
		Point string
		PID   int
	}
	w.mustJSON(&rows, "mounts")
	for _, r := range rows {
		if r.Point == point {
			return r.PID
		}
	}
	w.t.Fatalf("nothing is mounted at %s", point)
	return 0
}

// foreground mounts with NOTIFY_SOCKET, and looks at the process meanwhile: no secret
// may be seen with ps.
func (s *site) foreground(t *testing.T) {
	t.Helper()
	path := filepath.Join(s.dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cmd := s.command("start", "my-volume", s.mnt)
	cmd.Path, cmd.Args[0] = s.flexfs, s.flexfs
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "READY=1") {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if s.read("a") != "hello" {
		t.Error("another content")
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || s.mounted(s.mnt) {
		t.Errorf("SIGINT: %v", err)
	}
}

// TestFstab: init fstab and deinit fstab, and mount(8) with its line.
func TestFstab(t *testing.T) {
	needFUSE(t)
	needRoot(t)
	s := newSite(t)
	token, _ := s.token("--volume", "main")
	creds := filepath.Join(s.dir, "the creds, of main")
	s.mustFlex("init", "creds", "--adminAddr", s.addr, "--token", token, "--fingerprint", s.fingerprint, "--credsFile", creds)
	table := filepath.Join(s.dir, "fstab")
	before := "# comment\n/dev/sda1 / ext4 defaults 0 1" // without a line feed at its end
	if err := os.WriteFile(table, []byte(before), 0o640); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		data, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	point := filepath.Join(s.dir, "made for it")
	escaped := strings.ReplaceAll(point, " ", `\040`)
	s.refuseFlex(2, `unknown option "rro"`, "init", "fstab", "main", point, "--mountOptions", "rro")
	if read() != before {
		t.Error("a refused line changed the table")
	}
	s.mustFlex("init", "fstab", "main", point, "--credsFile", creds, "--mountOptions", "ro,verbose,noExec")
	want := before + "\nmain " + escaped + ` flexfs credsFile=` + strings.NewReplacer(" ", `\040`, ",", `\134,`).Replace(creds) + ",_netdev,nofail,ro,verbose,noExec 0 0\n"
	if read() != want {
		t.Errorf("\n got %q\nwant %q", read(), want)
	}
	if info, err := os.Stat(table); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode: %v, %v", info.Mode(), err)
	}
	s.refuseFlex(1, "has a line for "+point, "init", "fstab", "main", point)
	s.mustFlex("init", "fstab", "main", point, "--credsFile", creds, "--force", "--mountOptions", "noATime", "--now")
	t.Cleanup(func() { s.run("umount", "--force", point) })
	if !s.mounted(strings.ReplaceAll(point, " ", `\040`)) {
		t.Error("--now did not mount")
	}
	s.must("umount", point)

	// As mount(8) calls its helper.
	r := s.flex("main", point, "-o", "rw,noexec,_netdev,nofail,noATime,umask=077,credsFile="+strings.ReplaceAll(creds, ",", `\,`))
	if r.code != 0 {
		t.Fatalf("%+v\n%s", r, s.logs())
	}
	s.must("umount", point)
	s.refuseFlex(2, `unknown option "noexek"`, "main", point, "-o", "noexek")
	s.mustFlex("main", point, "-s", "-o", "noexek,credsFile="+strings.ReplaceAll(creds, ",", `\,`))
	s.must("umount", point)
	s.mustFlex("deinit", "fstab", "main", point)
	if read() != before+"\n" {
		t.Errorf("%q", read())
	}
	s.refuseFlex(1, "has no line", "deinit", "fstab", point)
}

// TestSharedEncrypted: the first init creds sets the secret; a wrong one is refused
// before anything is mounted.
func TestSharedEncrypted(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	s := newSite(t)
	s.must("admin", "create", "volume", "vault", "--store", "local", "--metadata-server", "local", "--encryption")
	token, _ := s.token("--volume", "vault")
	base := []string{"init", "creds", "--adminAddr", s.addr, "--token", token, "--fingerprint", s.fingerprint}
	s.refuseFlex(1, "is encrypted: give its secret", base...)
	s.refuseFlex(1, "at least 8", append(base, "--secret", "short")...)
	first := s.command(base...)
	first.Path, first.Args[0] = s.flexfs, s.flexfs
	shown, err := s.terminal(first, [2]string{"New secret", "correct horse battery"}, [2]string{"The same again", "correct horse battery"})
	if err != nil || !strings.Contains(shown, "recovery key") || strings.Contains(shown, "correct horse") {
		t.Fatalf("%v\n%s", err, shown)
	}
	s.refuseFlex(1, "the passphrase is wrong", append(base, "--secret", "another horse", "--force")...)
	s.refuse(1, "cannot be limited to one", "admin", "create", "token", "--volume", "vault", "--path", "a")
	s.mustFlex("start", "vault", s.mnt)
	s.write("a name nobody may know", "content nobody may know")
	s.write("large", strings.Repeat("content nobody may know ", 100_000))
	s.must("umount", s.mnt)
	s.mustFlex("start", "vault", s.mnt)
	if s.read("a name nobody may know") != "content nobody may know" {
		t.Error("another content")
	}
	s.must("umount", s.mnt)
	// Neither the bucket nor the metadata store knows, nor does the admin server.
	for path, text := range tree(t, filepath.Join(s.home, "all")) {
		for _, secret := range []string{"nobody may know", "correct horse"} {
			if strings.Contains(text, secret) || strings.Contains(path, secret) {
				t.Errorf("%q stands in %s", secret, path)
			}
		}
	}
	// Credentials without the secret: it is asked for.
	s.must("creds", "init", "--admin", s.addr, "--token", token, "--fingerprint", s.fingerprint, "--no-secret", "--passphrase-file", s.secretFile("right", "correct horse battery"))
	s.refuse(1, "is encrypted", "mount", s.addr+"/vault", s.mnt)
	s.refuse(1, "the passphrase is wrong", "mount", s.addr+"/vault", s.mnt, "--passphrase-file", s.secretFile("wrong", "wrong horse"))
	s.must("mount", s.addr+"/vault", s.mnt, "--passphrase-file", s.secretFile("right", "correct horse battery"))
	if s.read("a name nobody may know") != "content nobody may know" {
		t.Error("another content")
	}
	s.must("umount", s.mnt)
}
