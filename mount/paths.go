package mount

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Home is Massif's directory of this user: $MASSIF_HOME, else
// $XDG_DATA_HOME/massif, else ~/.local/share/massif.
func Home() (string, error) {
	if dir := os.Getenv("MASSIF_HOME"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "massif"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil || home == "" {
		// mount(8) started by init has no $HOME.
		if os.Geteuid() == 0 {
			return "/root/.local/share/massif", nil
		}
		return "", errors.New("neither MASSIF_HOME nor HOME is set: Massif does not know where its volumes are")
	}
	return filepath.Join(home, ".local", "share", "massif"), nil
}

// runtimeDir is the directory of locks and sockets of this user's mounts, made if
// need be. It does not depend on Home: two users of one mount point meet here.
func runtimeDir() (string, error) {
	dir := "/run/massif"
	if uid := os.Geteuid(); uid != 0 {
		if run := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) {
			dir = filepath.Join(run, "massif")
		} else {
			dir = fmt.Sprintf("/tmp/massif-%d", uid)
		}
	}
	err := ensurePrivate(dir)
	if err != nil && os.Geteuid() == 0 {
		dir = "/tmp/massif-0"
		err = ensurePrivate(dir)
	}
	return dir, err
}

// ensurePrivate makes a directory of mode 0700 or checks that one is there which
// nobody else could have prepared.
func ensurePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a directory of this user", dir)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// runtimeFile returns the path of a mount point's file of the given extension.
// The name is a hash: paths may be longer than socket names may.
func runtimeFile(point, ext string) (string, error) {
	dir, err := runtimeDir()
	if err != nil {
		return "", fmt.Errorf("runtime directory: %w", err)
	}
	return filepath.Join(dir, pointKey(point)+ext), nil
}

func pointKey(point string) string {
	sum := sha256.Sum256([]byte(point))
	return hex.EncodeToString(sum[:8])
}

// within tells whether path lies below dir.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
