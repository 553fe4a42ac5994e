package mount

import (
	"strings"
	"testing"
)

func TestForcedFlags(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "ro": "ro", "noExec,rootSquash,ro": "noexec,root-squash,ro", "rootSquashUID=7": "root-squash-uid=7", " ro , ro ": "ro", "acl,xAttr": "acl,xattr",
		"umask=022": "umask=022", "--noSUID": "nosuid",
	} {
		got, err := ForcedFlags(in)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"log-file=/etc/passwd": "cannot be demanded", "access-log=x": "cannot be demanded", "uid=0": "cannot be demanded", "allow-other": "cannot be demanded",
		"umask=9": "octal", "ro=false": "not taken back", "umask": "needs a value",
	} {
		if _, err := ForcedFlags(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v does not say %q", in, err, want)
		}
	}
}

// FuzzForcedFlags: what is accepted are options that only restrict.
func FuzzForcedFlags(f *testing.F) {
	f.Add("noExec,rootSquashUID=7,umask=022")
	f.Add("log-file=/x,ro\\,=")
	f.Fuzz(func(t *testing.T, list string) {
		out, err := ForcedFlags(list)
		if err != nil {
			return
		}
		if again, err := ForcedFlags(out); err != nil || again != out {
			t.Errorf("%q became %q, then %q, %v", list, out, again, err)
		}
		var o Options
		if err := o.ParseOptions(out); err != nil {
			t.Errorf("%q: %v", out, err)
		}
		if o.LogFile != "" || o.AccessLog != "" || o.CacheDir != "" || o.MetricsAddr != "" || o.AllowOther != nil || o.PassphraseFile != "" {
			t.Errorf("%q sets what it must not: %+v", list, o)
		}
	})
}

func TestSharedSources(t *testing.T) {
	for source, want := range map[string]string{
		"admin.example.com/photos": "admin.example.com photos", "localhost:7443/main": "localhost:7443 main", "10.0.0.1/v": "10.0.0.1 v", "[::1]:7/v": "[::1]:7 v",
		"./photos": "", "../photos": "", "dir/photos": "", "admin.example.com/a/b": "", "admin.example.com/": "", "/abs": "", "a b.c/v": "", "host:99999/v": "",
	} {
		c, ok := sharedVolumeOf(source)
		got := ""
		if ok {
			got = c.Admin + " " + c.Volume
			if err := c.Validate(); err != nil {
				t.Errorf("%s: %v", source, err)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", source, got, want)
		}
	}
}
