package mount

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// QuotaArgs name a directory of a volume and its limits; 0: no limit.
type QuotaArgs struct {
	Path   string `json:"path"`
	Bytes  uint64 `json:"bytes"`
	Inodes uint64 `json:"inodes"`
}

// QuotaEntry is a quota in a list. The path "/" stands for the whole volume.
type QuotaEntry struct {
	Path string `json:"path"`
	meta.QuotaInfo
}

type pathArgs struct {
	Path string `json:"path"`
}

func init() {
	registerOp("quota-set", opQuotaSet)
	registerOp("quota-remove", opQuotaRemove)
	registerOp("quota-list", opQuotaList)
}

func opQuotaSet(ctx context.Context, v *Volume, q QuotaArgs, _ func(any)) (any, error) {
	return nil, v.onPath(ctx, q.Path, func(ino vfs.Ino) error {
		if ino == vfs.Root {
			_, err := opSet(ctx, v, Settings{QuotaBytes: &q.Bytes, QuotaInodes: &q.Inodes}, nil)
			return err
		}
		return v.Engine.SetQuota(ctx, ino, q.Bytes, q.Inodes)
	})
}

func opQuotaRemove(ctx context.Context, v *Volume, a pathArgs, _ func(any)) (any, error) {
	return nil, v.onPath(ctx, a.Path, func(ino vfs.Ino) error {
		if ino == vfs.Root {
			zero := uint64(0)
			_, err := opSet(ctx, v, Settings{QuotaBytes: &zero, QuotaInodes: &zero}, nil)
			return err
		}
		err := v.Engine.RemoveQuota(ctx, ino)
		if errors.Is(err, syscall.ENODATA) {
			return fmt.Errorf("%s has no quota", a.Path)
		}
		return err
	})
}

func opQuotaList(ctx context.Context, v *Volume, _ none, _ func(any)) (any, error) {
	entries := []QuotaEntry{}
	if s := v.Engine.Settings(); s.QuotaBytes > 0 || s.QuotaInodes > 0 {
		bytes, inodes := v.Engine.Usage()
		entries = append(entries, QuotaEntry{"/", meta.QuotaInfo{
			Ino: vfs.Root, Bytes: s.QuotaBytes, Inodes: s.QuotaInodes, UsedBytes: bytes, UsedInodes: inodes,
		}})
	}
	quotas := v.Engine.ListQuotas()
	if len(quotas) == 0 {
		return entries, nil
	}
	session, err := v.session(ctx)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	for _, q := range quotas {
		if v.locked() {
			entries = append(entries, QuotaEntry{fmt.Sprintf("(directory %d, whose name is sealed)", q.Ino), q})
			continue
		}
		name, err := pathOf(ctx, session, q.Ino)
		if err != nil {
			return nil, err
		}
		entries = append(entries, QuotaEntry{name, q})
	}
	return entries, nil
}

// operation is the session of an operation.
var operation = meta.SessionInfo{Host: "localhost", Mountpoint: "(operation)"}

// session begins a session for an operation.
func (v *Volume) session(ctx context.Context) (meta.Session, error) {
	return v.begin(ctx, v.Engine, operation)
}

// onPath calls fn with the inode that a path of the volume leads to. Symbolic links
// are not followed.
func (v *Volume) onPath(ctx context.Context, name string, fn func(vfs.Ino) error) error {
	if v.locked() && !isRoot(name) {
		return v.errLocked("path " + name)
	}
	session, err := v.session(ctx)
	if err != nil {
		return err
	}
	attr, err := lookupPath(ctx, session, name)
	if err == nil {
		err = fn(attr.Ino)
	}
	return errors.Join(err, session.Close())
}

// lookupPath finds a path, which may or may not begin with a '/'.
func lookupPath(ctx context.Context, session meta.Session, name string) (vfs.Attr, error) {
	var attr vfs.Attr
	if err := session.GetAttr(ctx, caller, vfs.Root, &attr); err != nil {
		return attr, err
	}
	for _, part := range strings.Split(path.Clean("/"+name), "/") {
		if part == "" {
			continue
		}
		parent := attr.Ino
		if err := session.Lookup(ctx, caller, parent, part, &attr); err != nil {
			return attr, fmt.Errorf("path %s in the volume: %s: %w", name, part, err)
		}
	}
	return attr, nil
}

// pathOf finds the path of a directory.
func pathOf(ctx context.Context, session meta.Session, ino vfs.Ino) (string, error) {
	var parts []string
	for ino != vfs.Root {
		var parent vfs.Attr
		if err := session.Lookup(ctx, caller, ino, "..", &parent); err != nil {
			return "", err
		}
		name := ""
		err := session.ReadDir(ctx, caller, parent.Ino, 0, false, func(e *vfs.DirEntry) bool {
			if e.Ino == ino {
				name = e.Name
			}
			return name == ""
		})
		if err != nil {
			return "", err
		}
		if name == "" {
			return "", fmt.Errorf("inode %d: its name is not in its parent: %w", ino, syscall.ESTALE)
		}
		parts = append([]string{name}, parts...)
		ino = parent.Ino
	}
	return "/" + strings.Join(parts, "/"), nil
}
