package flexfs

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/massif-fs/massif/mount"
)

// parse makes the request of an option list.
func parse(t *testing.T, list string) (*request, error) {
	t.Helper()
	r := newRequest()
	r.name, r.point = "vol", "/mnt"
	return r, r.parseOptions(list, false)
}

// TestFlagsBecomeOptions: each flag of the reference does what it says, or says that it
// does nothing.
func TestFlagsBecomeOptions(t *testing.T) {
	r, err := parse(t, "ro,acl,xAttr,noExec,noSUID,nonEmpty,rootSquash,rootSquashUID=7,rootSquashGID=8,umask=027,verbose,"+
		"diskFolder=/cache,diskQuota=1GiB,maxBops=5,memCapacity=512MiB,credsFile=/c/f,atTime=2026-01-31T12:00:00Z,pprof,pprofPort=6061,foreground,noUpdate,_netdev,nofail,diskWriteback")
	if err != nil {
		t.Fatal(err)
	}
	spec, err := r.spec()
	if err != nil {
		t.Fatal(err)
	}
	o := spec.Mount
	switch {
	case !o.ReadOnly, !o.NoAtime, !o.NoExec, !o.NoSuid, o.EmptyPoint, !o.RootSquash, *o.RootSquashUID != 7, *o.RootSquashGID != 8, *o.Umask != 0o27,
		o.LogLevel != "debug", o.CacheDir != "/cache", *o.CacheSize != 1<<30, o.Uploads != 5, o.MemoryLimit != 512<<20, o.AtTime != "2026-01-31T12:00:00Z",
		o.MetricsAddr != "127.0.0.1:6061", !o.Pprof, !r.foreground, o.Writeback:
		t.Errorf("%+v", o)
	}
	if c := spec.Tree.Config.(*mount.SharedTree); c.Creds != "/c/f" {
		t.Errorf("%+v", c)
	}
	if len(r.warnings) != 1 || !strings.Contains(r.warnings[0], "diskWriteback") {
		t.Errorf("%q", r.warnings)
	}
	if err := spec.Validate(); err != nil {
		t.Error(err)
	}
	// Without any: an empty mount point is demanded, and there is no disk cache.
	r, _ = parse(t, "")
	if spec, err := r.spec(); err != nil || !spec.Mount.EmptyPoint || *spec.Mount.CacheSize != 0 || spec.Mount.ReadOnly {
		t.Errorf("%+v, %v", spec, err)
	}
	// Shares of disk and memory; memory in blocks, but never less than a mount needs.
	r, err = parse(t, "diskQuota=50%,memCapacity=50%")
	if spec, serr := r.spec(); err != nil || serr != nil || *spec.Mount.CacheSize <= 0 || spec.Mount.MemoryLimit < mount.MinMemoryLimit {
		t.Errorf("%+v, %v, %v", spec, err, serr)
	}
	r, err = parse(t, "memCapacity=32")
	if err != nil || r.options.MemoryLimit != 32*4<<20 {
		t.Errorf("%v, %v", r.options.MemoryLimit, err)
	}
}

func TestIdleFlagsAreTold(t *testing.T) {
	for _, f := range startFlags {
		if f.idle == "" {
			continue
		}
		value := "true"
		if f.arg != "" {
			value = "3"
		}
		r, err := parse(t, f.name+"="+value)
		if err != nil || len(r.warnings) != 1 || !strings.Contains(r.warnings[0], f.name) {
			t.Errorf("%s: %q, %v", f.name, r.warnings, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for list, want := range map[string]string{
		"rro": `did you mean "ro"`, "umask": "needs a value", "umask=9": "umask", "rootSquashUID=x": "rootSquashUID", "noSSL": "TLS",
		"atTime=yesterday": "RFC 3339", "attrValid=long": "use a number", "memCapacity=200%": "share", "ro=maybe": "true or false", "pprofPort=0": "port",
	} {
		_, err := parse(t, list)
		var usage *mount.UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", list, err, want)
		}
	}
	for _, quota := range []string{"x", "101%", "NaN%"} {
		r, err := parse(t, "diskQuota="+quota)
		if err == nil {
			_, err = r.spec()
		}
		if err == nil || !strings.Contains(err.Error(), "diskQuota") {
			t.Errorf("diskQuota=%s: %v", quota, err)
		}
	}
}

// TestCommandLines: what makes no sense is a usage error that names what is wrong.
func TestCommandLines(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("MASSIF_HOME", t.TempDir())
	for line, want := range map[string]string{
		"nonsense":              `no command "mount.flexfs nonsense"`,
		"init nonsense":         `no command "mount.flexfs init nonsense"`,
		"deinit nonsense":       `no command "mount.flexfs deinit nonsense"`,
		"start a":               "DIR is missing",
		"start a b c":           `too many arguments, beginning with "c"`,
		"start a /b --nonsense": "unknown flag --nonsense",
		"init creds":            "--adminAddr is missing",
		"init creds x":          "too many arguments",
		"deinit creds":          "NAME is missing",
		"deinit creds ../x":     "cannot be a volume's name",
		"init fstab x":          "DIR is missing",
		"version x":             "too many arguments",
		"a /b -q -o ro":         "unknown shorthand",
	} {
		var out, errOut bytes.Buffer
		p := &Personality{Streams: Streams{strings.NewReader(""), &out, &errOut}, Version: "1"}
		err := p.Run(context.Background(), strings.Fields(line))
		var usage *mount.UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", line, err, want)
		}
	}
}

func TestHelperCall(t *testing.T) {
	for line, want := range map[string]bool{
		"vol /mnt -o rw": true, "vol /mnt -s -v -o rw,_netdev -t flexfs": true, "start vol /mnt": false, "start vol /mnt -f": false, "-o rw": false,
		"start /mnt -o rw": true,
	} {
		if got := isHelperCall(strings.Fields(line)); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}

func FuzzOptions(f *testing.F) {
	f.Add("ro,credsFile=/a\\,b,umask=022,diskQuota=80%,memCapacity=2%,x-systemd.automount")
	f.Add("atTime=2026-01-31T12:00:00Z,verbose=false,,=,\\")
	f.Fuzz(func(t *testing.T, list string) {
		r := newRequest()
		r.name = "vol"
		if r.parseOptions(list, false) != nil {
			return
		}
		if spec, err := r.spec(); err == nil && spec.Tree.Kind != "shared" {
			t.Errorf("%+v", spec)
		}
	})
}

// FuzzFstab: what is not ours stays as it is, byte by byte.
func FuzzFstab(f *testing.F) {
	f.Add("# c\n/dev/sda1 / ext4 defaults 0 1\nvol /mnt/a\\040b flexfs ro 0 0\n", "/mnt/a b")
	f.Add("a b", "")
	f.Fuzz(func(t *testing.T, table, point string) {
		var whole strings.Builder
		for _, l := range parseFstab([]byte(table)) {
			whole.WriteString(l.raw)
			l.is(point, true)
		}
		if whole.String() != table {
			t.Errorf("%q became %q", table, whole.String())
		}
		// A line that is written is found again.
		if !strings.HasPrefix(point, "/") || strings.ContainsRune(point, 0) {
			return
		}
		line := "vol " + escapeFstab(point) + " flexfs ro 0 0\n"
		if got := parseFstab([]byte(line)); len(got) != 1 || len(got[0].fields) != 6 || got[0].fields[1] != point {
			t.Errorf("%q became %+v", line, got)
		}
	})
}
