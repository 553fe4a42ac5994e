package mount

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseOptions(t *testing.T) {
	var o Options
	list := `ro,noatime,nosuid,allow_other,umask=022,uid=1000,memory-limit=1GiB,max_idle=5m,fsname=a\,b,defaults,x-systemd.automount,_netdev,comment=z`
	if err := o.ParseOptions(list); err != nil {
		t.Fatal(err)
	}
	yes, umask, uid := true, Octal(0o22), uint32(1000)
	want := Options{
		ReadOnly: true, NoAtime: true, NoSuid: true, AllowOther: &yes, Umask: &umask, UID: &uid,
		MemoryLimit: 1 << 30, MaxIdle: Duration(5 * time.Minute), FSName: "a,b",
	}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	// Later words win.
	if err := o.ParseOptions("rw,relatime,suid,noallow_other"); err != nil {
		t.Fatal(err)
	}
	if o.ReadOnly || o.NoAtime || o.NoSuid || *o.AllowOther {
		t.Errorf("inverse words left %+v", o)
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	for list, want := range map[string]string{
		"noatme":          `unknown option "noatme"; did you mean "noatime"?`,
		"quux":            `unknown option "quux"`,
		"memory-limit":    "needs a value",
		"memory-limit=4Q": "write a number with a unit",
		"ro=maybe":        "takes no value",
		"umask=9":         "octal",
		"uid=-1":          "use a number",
		"log-level=loud":  "use debug, info, warn or error",
		"cache-dir=":      "name a directory",
		"metrics-addr=x":  "HOST:PORT",
	} {
		var o Options
		err := o.ParseOptions(list)
		var usage *UsageError
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &usage) {
			t.Errorf("ParseOptions(%q) = %v, want a usage error with %q", list, err, want)
		}
	}
	contradictions := []Options{
		{ReadOnly: true, Writeback: true}, {Pprof: true}, {MemoryLimit: 1 << 20}, {MaxIdle: -1},
	}
	for _, o := range contradictions {
		if err := o.Validate(); err == nil {
			t.Errorf("Validate accepts %+v", o)
		}
	}
}

// Every option must survive the way from the command line to the background
// process, which is by way of a spec.
func TestEveryOptionSurvivesSpec(t *testing.T) {
	values := map[string]string{
		"uid": "1", "gid": "2", "passphrase-file": "/pf", "root-squash-uid": "3", "root-squash-gid": "4", "umask": "027", "max-idle": "1m", "fsname": "n", "memory-limit": "128MiB",
		"cache-dir": "/c", "at-time": "2h", "cache-size": "0", "journal-size": "1GiB", "uploads": "7", "log-level": "warn",
		"log-file": "/l", "log-format": "json", "access-log": "/a", "metrics-addr": "127.0.0.1:0",
		"transport": "classic",
	}
	var all Options
	for _, opt := range OptionTable() {
		value := values[opt.Name]
		if value == "" && opt.Arg != "" {
			t.Errorf("no value for option %s in this test", opt.Name)
			continue
		}
		var o Options
		if err := opt.Set(&o, value); err != nil {
			t.Errorf("option %s: %v", opt.Name, err)
			continue
		}
		if cmp.Equal(o, Options{}) {
			t.Errorf("option %s sets nothing", opt.Name)
		}
		if err := opt.Set(&all, value); err != nil {
			t.Error(err)
		}
		if strings.Contains(opt.Name, "_") {
			t.Errorf("option %s: names are written with '-'", opt.Name)
		}
	}
	all.ReadOnly = false // contradicts writeback
	spec := Spec{Tree: Tree{Kind: "local", Config: &LocalTree{Path: "/x"}}, Mount: all, Point: "/p", Source: "file:///x"}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseSpec(text)
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if diff := cmp.Diff(spec, *back); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

func TestKnownOptions(t *testing.T) {
	if got := KnownOptions("ro,quux=1,noatime"); got != "ro,noatime" {
		t.Errorf("KnownOptions = %q", got)
	}
}

func TestDefaultsOfAllowOther(t *testing.T) {
	var o Options
	if o.EffectiveAllowOther() != (os.Geteuid() == 0) {
		t.Error("allow_other is the default for root and only for root")
	}
	if !o.EffectiveDefaultPermissions() {
		t.Error("default_permissions is not the default")
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("ro,noatime,umask=022")
	f.Add(`fsname=a\,b,uid=4294967295`)
	f.Add("memory-limit=1e9,,=,x-")
	f.Fuzz(func(t *testing.T, list string) {
		var o Options
		if o.ParseOptions(list) == nil {
			o.Validate()
		}
		KnownOptions(list)
	})
}
