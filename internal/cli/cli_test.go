package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// Every command teaches: it says what it does and, if it does anything, shows it.
func TestEveryCommandTeaches(t *testing.T) {
	root := newRoot(streams{strings.NewReader(""), new(strings.Builder), new(strings.Builder)})
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		if cmd.Short == "" {
			t.Errorf("%s has no short help", cmd.CommandPath())
		}
		leaf := !cmd.HasSubCommands()
		if leaf && cmd.Example == "" && cmd.Name() != "version" {
			t.Errorf("%s shows no example", cmd.CommandPath())
		}
		listing := strings.HasPrefix(cmd.Name(), "list") || cmd.Name() == "mounts" || cmd.Name() == "stats" || cmd.Name() == "df" || cmd.Name() == "info"
		if listing && cmd.Flags().Lookup("json") == nil {
			t.Errorf("%s has no --json", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			check(sub)
		}
	}
	check(root)
}

func TestHelpAndMistakes(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{nil, {"help"}, {"--help"}, {"help", "mount"}, {"volume"}, {"volume", "create", "--help"}} {
		if out := w.must(args...); !strings.Contains(out, "Usage:") {
			t.Errorf("massif %q: %s", args, out)
		}
	}
	w.refuse(2, `there is no command "massif mont"; did you mean "massif mount"?`, "mont")
	w.refuse(2, `there is no command "massif volume crate"; did you mean "massif volume create"?`, "volume", "crate")
	w.refuse(2, "unknown flag --jsn; did you mean --json?", "mounts", "--jsn")
	w.refuse(2, "too many arguments", "version", "x")
	w.refuse(2, "MOUNTPOINT is missing", "umount")
	w.refuse(2, "contradict", "umount", "--force", "--lazy", w.mnt)
	if _, err := os.Stat(w.home); err == nil {
		t.Error("commands that do nothing made Massif's directory")
	}
}

func TestVersion(t *testing.T) {
	w := newWorld(t)
	var v versionInfo
	w.mustJSON(&v, "version")
	if v.Go == "" || v.Platform == "" || v.Version == "" {
		t.Errorf("version: %+v", v)
	}
	if out := w.must("version"); !strings.HasPrefix(out, "massif ") {
		t.Errorf("version: %q", out)
	}
}

func TestManPages(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "man")
	w.must("man", dir)
	for _, page := range []string{"massif.1", "massif-mount.1", "massif-volume-create.1"} {
		text, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !strings.Contains(string(text), ".SH") {
			t.Errorf("%s: %v", page, err)
		}
	}
}

func TestCompletion(t *testing.T) {
	w := newWorld(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := w.must("completion", shell); !strings.Contains(out, "massif") {
			t.Errorf("completion %s: %.80s", shell, out)
		}
	}
	w.must("volume", "create", "photos")
	if out := w.must("__complete", "mount", "ph"); !strings.Contains(out, "photos") {
		t.Errorf("completion of a volume: %s", out)
	}
}

func TestHumanFigures(t *testing.T) {
	for got, want := range map[string]string{
		humanBytes(0): "0B", humanBytes(1023): "1023B", humanBytes(1536): "1.50KiB", humanBytes(50 << 20): "50.0MiB", humanBytes(int64(300) << 30): "300GiB",
		humanCount(0): "0", humanCount(999): "999", humanCount(1234567): "1,234,567", humanCount(-1000): "-1,000",
		humanAgo(1500 * time.Microsecond): "1ms", humanAgo(90 * time.Second): "1m30s", humanAgo(50 * time.Hour): "2d02h",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
