package cloudfuse

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/massif-fs/massif/seal"
)

func TestMountArgs(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		// cloudfuse /mnt fuse defaults,_netdev,--config-file=/etc/c.yaml,allow_other 0 0
		{"/mnt -o rw,_netdev,--config-file=/etc/c.yaml,allow_other", "mount /mnt -o rw,_netdev,allow_other --config-file=/etc/c.yaml"},
		{"/mnt -o --config-file=/etc/c.yaml,--read-only", "mount /mnt --config-file=/etc/c.yaml --read-only"},
		// none /mnt fuse.cloudfuse …, and with the configuration as the source.
		{"none /mnt -o --config-file=/etc/c.yaml", "mount /mnt --config-file=/etc/c.yaml"},
		{"/etc/c.yaml /mnt -o ro,dev", "mount /mnt --config-file=/etc/c.yaml -o ro,dev"},
		{"mount /mnt -o ro", "mount /mnt -o ro"},
		{"mount /mnt -oro,--foreground=true", "mount /mnt -o ro --foreground=true"},
		{"mount all /mnt -o --tmp-path=/c", "mount all /mnt --tmp-path=/c"},
		{`mount /mnt -o --tmp-path=/a\,b,ro`, `mount /mnt -o ro --tmp-path=/a,b`},
		{"secure encrypt -o out", "secure encrypt -o out"},
		{"gen-config -o out", "gen-config -o out"},
	} {
		args := strings.Fields(c.in)
		var err error
		if p := new(Personality); !isCommand(p.root(), args[0]) {
			if args, err = mountArgs(args); err != nil {
				t.Errorf("%s: %v", c.in, err)
			}
		}
		args, err = expandOptions(args)
		if got := strings.Join(args, " "); got != c.want || err != nil {
			t.Errorf("%s: %s, %v; want %s", c.in, got, err, c.want)
		}
	}
}

func TestFUSEOptions(t *testing.T) {
	s := newSettings(nil, "", func(string) string { return "" })
	if err := applyOptions(s, []string{"allow_other", "ro", "attr_timeout=5", "umask=022", "uid=7", "direct_io", "default_permissions", "_netdev", "x-systemd.automount", "rw", ""}, "-o"); err != nil {
		t.Fatal(err)
	}
	umask, _ := s.mode("libfuse.umask")
	if !s.toggle("allow-other", false) || !s.toggle("read-only", false) || s.whole("libfuse.attribute-expiration-sec", 0) != 5 || umask != 0o22 || s.whole("libfuse.uid", 0) != 7 || !s.toggle("direct-io", false) || s.err != nil {
		t.Errorf("options are read wrongly: %v", s.err)
	}
	for _, wrong := range []string{"allow_everybody", "umask", "ro=1", "attr_timeout"} {
		err := applyOptions(s, []string{wrong}, "-o")
		if err == nil || !strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "allowed are allow_other, ") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

func FuzzMountArgs(f *testing.F) {
	f.Add("/mnt -o rw,--config-file=/c")
	f.Add(`a b -o x\,y,--z -- -o`)
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Fields(line)
		if len(args) == 0 {
			return
		}
		args, err := mountArgs(args)
		if err != nil {
			return
		}
		if args, err = expandOptions(args); err == nil && args[0] != "mount" {
			t.Errorf("%q: %q", line, args)
		}
	})
}

func TestRefusals(t *testing.T) {
	p := newProgram(t)
	for _, dir := range []string{"empty", "full/x", "cache"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.write("file", "")
	p.write("config.aes", strings.Repeat("x", 100))
	p.write("local.yaml", "components: [libfuse, loopbackfs]\nloopbackfs: {path: "+p.dir+"}\ndefault-working-dir: "+p.dir+"/work\n")
	p.write("bad.yaml", "a: b: c")
	p.write("inside.yaml", "s3storage: {bucket-name: b, endpoint: 'http://127.0.0.1:1'}\nfile_cache: {path: "+p.dir+"/empty/cache}\n")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"missing command options", nil},
		{"mount path not provided", []string{"mount"}},
		{"mount path not provided", []string{"mount", ""}},
		{"too many arguments", []string{"mount", "a", "b"}},
		{"mount directory does not exist", []string{"mount", "nothing", "-c", "local.yaml"}},
		{"mount directory is not a directory", []string{"mount", "file", "-c", "local.yaml"}},
		{"mount directory is not empty", []string{"mount", "full", "-c", "local.yaml"}},
		{"failed to initialize new pipeline", []string{"mount", "empty"}},
		{"failed to initialize new pipeline: config file: open missing.yaml", []string{"mount", "empty", "--config-file=missing.yaml"}},
		{"failed to initialize new pipeline: config file bad.yaml: line 1: this is no YAML", []string{"mount", "empty", "--config-file=bad.yaml"}},
		{"is the mount point or below it", []string{"mount", "empty", "--config-file=inside.yaml"}},
		{"failed to decrypt config file config.aes: the passphrase is wrong", []string{"mount", "empty", "-c", "config.aes", "-p", "x"}},
		{`invalid FUSE option "allow_none"`, []string{"mount", "empty", "-c", "local.yaml", "-o", "allow_none"}},
		{"unknown flag: --tmppath", []string{"mount", "empty", "--tmppath=x"}},
		{"is not mounted", []string{"unmount", "empty"}},
		{"no mount fits", []string{"unmount", p.dir + "/e*"}},
		{"PATH is missing", []string{"unmount"}},
		{"mount directory does not exist", []string{"mount", "all", "nothing", "-c", "local.yaml"}},
		{"there is a registry on Windows only", []string{"service", "add-registry"}},
		{`there is no command "cloudfuse service whatever"`, []string{"service", "whatever"}},
		{`there is no command "a"`, []string{"a", "b", "c"}},
		{"unknown flag: --chek; did you mean --check?", []string{"version", "--chek"}},
	} {
		p.refuse(c.want, c.args...)
	}
	if _, err := os.Open("/dev/tty"); err != nil {
		p.refuse("no passphrase provided to decrypt the config file", "mount", "empty", "-c", "config.aes")
		p.refuse("no passphrase provided to decrypt the config file", "mount", "empty", "-c", "local.yaml", "--secure-config")
	}
}

func TestVersion(t *testing.T) {
	p := newProgram(t)
	lines := strings.Split(p.must("version"), "\n")
	for i, want := range []string{"cloudfuse version: 1.2.3", "git commit: abc", "commit date: today", "go version: go", "OS/Arch: linux/"} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d: %q", i, lines[i])
		}
	}
	if out := p.must("--version"); out != "cloudfuse version 1.2.3\n" {
		t.Errorf("--version: %q", out)
	}
	if out := p.must("help", "mount"); !strings.Contains(out, "--container-name") || !strings.Contains(out, "--block-cache-prefetch-on-open") || strings.Contains(out, "--debug-libcurl") {
		t.Errorf("help: %s", out)
	}
	if out := p.must("completion", "bash"); !strings.Contains(out, "__start_cloudfuse") {
		t.Error("completion has no function")
	}
}

func TestGenConfig(t *testing.T) {
	p := newProgram(t)
	t.Setenv("BUCKET", "photos")
	p.write("template.yaml", "s3storage:\n  bucket-name: { BUCKET }\nfile_cache:\n  path: {0}\n")
	p.must("gen-config", "--config-file=template.yaml", "--output-file=out.aes", "--temp-path=/cache", "--passphrase=secret")
	plain, err := seal.OpenConfig(seal.Passphrase("secret"), []byte(p.read("out.aes")))
	if err != nil || string(plain) != "s3storage:\n  bucket-name: photos\nfile_cache:\n  path: /cache\n" {
		t.Errorf("%q, %v", plain, err)
	}
	p.private("out.aes")
	p.write("template.yaml", "s3storage:\n  bucket-name: { NO_SUCH_BUCKET }\n")
	p.refuse("the environment has no NO_SUCH_BUCKET", "gen-config", "--config-file=template.yaml", "--passphrase=secret")

	for _, args := range [][]string{{}, {"--block-cache", "--ro"}, {"--s3", "--tmp-path=/a b: c"}, {"--direct-io"}, {"--s3", "--block-cache", "--tmp-path=/x"}} {
		out := p.must(append([]string{"gen-config"}, args...)...)
		c := parse(t, out)
		if len(c.warnings) > 0 {
			t.Errorf("%q: %q", args, c.warnings)
		}
		s := newSettings(c, "", func(string) string { return "" })
		if list := s.pipeline(); s.err != nil || slices.Contains(list, "block_cache") != slices.Contains(args, "--block-cache") {
			t.Errorf("%q: %v, %v", args, list, s.err)
		}
	}
	p.must("gen-config", "--ro", "-o", "made.yaml")
	if p.private("made.yaml"); parse(t, p.read("made.yaml")).values["read-only"].text != "true" {
		t.Error("the file is not what was asked for")
	}
}

// A systemctl that notes what it is asked.
func fakeSystemd(t *testing.T, p *program) (units string, calls func() string) {
	bin, log := filepath.Join(p.dir, "bin"), filepath.Join(p.dir, "calls")
	units = filepath.Join(p.dir, "units")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\n[ \"$1\" = --user ] && shift\necho \"$@\" >> " + log + "\n"
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "cloudfuse"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("SYSTEMD_UNIT_PATH", units)
	old := os.Args[0]
	os.Args[0] = "cloudfuse"
	t.Cleanup(func() { os.Args[0] = old })
	return units, func() string {
		data, _ := os.ReadFile(log)
		os.Remove(log)
		return string(data)
	}
}

func TestService(t *testing.T) {
	p := newProgram(t)
	units, calls := fakeSystemd(t, p)
	point := filepath.Join(p.dir, "my-point")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	p.write("local.yaml", "components: [libfuse, loopbackfs]\nloopbackfs: {path: "+p.dir+"}\ndefault-working-dir: "+p.dir+"/work\n")
	p.must("service", "install")
	if got := calls(); got != "daemon-reload\nenable cloudfuse.target\nstart cloudfuse.target\n" {
		t.Errorf("install: %q", got)
	}
	p.must("service", "mount", point, "--config-file=local.yaml", "--read-only", "--use-https=false", "-o", "allow_other,--log-level=LOG_DEBUG")
	name := unitName(point)
	if got := calls(); got != "daemon-reload\nenable cloudfuse.target\ndaemon-reload\nenable --now "+name+"\n" {
		t.Errorf("mount: %q", got)
	}
	text, err := os.ReadFile(filepath.Join(units, name))
	if err != nil {
		t.Fatal(err)
	}
	start := `ExecStart="` + p.dir + `/bin/cloudfuse" "mount" "` + point + `" "--foreground" "--config-file=` + p.dir + `/local.yaml" "--read-only=true" "--use-https=false" "--log-level=LOG_DEBUG" "-o" "allow_other"` + "\n"
	for _, want := range []string{start, "Type=notify\n", "PartOf=cloudfuse.target\n", "WantedBy=cloudfuse.target\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the unit has no %q:\n%s", want, text)
		}
	}
	p.must("service", "stop")
	p.must("service", "start")
	if out := p.must("service", "unmount", point); !strings.HasPrefix(out, "Successfully unmounted ") {
		t.Errorf("unmount: %q", out)
	}
	if got := calls(); got != "stop cloudfuse.target\nstart cloudfuse.target\ndisable --now "+name+"\ndaemon-reload\n" {
		t.Errorf("stop, start, unmount: %q", got)
	}
	p.refuse("has no unit", "service", "unmount", point)
	// The flag of "mount" does the same, and that of "unmount" takes it back.
	p.must("mount", point, "--config-file=local.yaml", "--enable-remount-system", "--remount-system-user=ann")
	if text, err := os.ReadFile(filepath.Join(units, name)); err != nil || !strings.Contains(string(text), "User=ann\n") {
		t.Errorf("unit: %v\n%s", err, text)
	}
	p.must("unmount", point, "--disable-remount-system")
	p.refuse("is no user", "mount", point, "--config-file=local.yaml", "--enable-remount-system", "--remount-system-user=a b")
	p.must("service", "uninstall")
	if left, _ := os.ReadDir(units); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	p.refuse("the service is not installed", "service", "uninstall")
}

func TestQuoted(t *testing.T) {
	if got := quoted(`a "b" \ $HOME 50%`); got != `"a \"b\" \\ $$HOME 50%%"` {
		t.Error(got)
	}
	sealed := &mountRequest{configSource: configSource{file: "/etc/c.aes"}}
	text, err := sealed.unitText("/bin/cloudfuse", "/mnt")
	if err != nil || !strings.Contains(text, "EnvironmentFile=/etc/c.aes.env\n") {
		t.Errorf("%v\n%s", err, text)
	}
}
