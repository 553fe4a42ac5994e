package azure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
)

// Lake is a Store over an account with a hierarchical namespace.
type Lake struct{ *Store }

var (
	_ object.RangeReader = (*Lake)(nil)
	_ object.Multipart   = (*Lake)(nil)
	_ object.Tree        = (*Lake)(nil)
)

// madeOnPurpose is the metadata of directories that Mkdir made: they stay when
// their last file is deleted.
const madeOnPurpose = "massif_directory"

// Check is that of Store, with listings and deletions of the tree. It refuses an
// account that says it is flat; what may not be asked is not held against it.
func (l *Lake) Check(ctx context.Context, write bool) error {
	if is, err := l.hierarchical(ctx); err == nil && !is {
		m := meanings["HierarchicalNamespaceNotEnabled"]
		return &object.Error{Op: "check", Err: &wire.Failure{Kind: m.Kind, Text: l.where + ": " + m.Text, Cause: errors.New("flat")}}
	}
	return check(ctx, l, write)
}

// path is the place of a file or directory in the container.
func (l *Lake) path(key string) string { return strings.Trim(l.cfg.Prefix+key, "/") }

// beginDir is begin for directories. root says whether "" is one.
func (l *Lake) beginDir(ctx context.Context, op string, root bool, dirs ...string) error {
	for _, dir := range dirs {
		if dir == "" && root {
			continue
		}
		if err := l.validKey(dir); err != nil {
			return &object.Error{Op: op, Key: dir, Err: err}
		}
	}
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: op, Key: strings.Join(dirs, " → "), Err: err}
	}
	return nil
}

// Rename implements object.Renamer. It replaces a file at dst.
func (l *Lake) Rename(ctx context.Context, dst, src string) error {
	const op = "rename"
	if err := l.begin(ctx, op, src, dst); err != nil {
		return err
	}
	// A directory of that name is no object, and must not be moved as one.
	if _, err := l.head(ctx, op, src); err != nil {
		return err
	}
	if err := l.rename(ctx, op, dst, src); err != nil {
		return err
	}
	return l.prune(ctx, src)
}

// RenameDir implements object.Tree.
func (l *Lake) RenameDir(ctx context.Context, dst, src string) error {
	const op = "rename directory"
	if err := l.beginDir(ctx, op, false, src, dst); err != nil {
		return err
	}
	if dst == src || strings.HasPrefix(dst, src+"/") {
		return &object.Error{Op: op, Key: src, Err: invalid("a directory cannot be moved into itself")}
	}
	if _, err := l.HeadDir(ctx, src); err != nil {
		return err
	}
	// The service would put src into a directory that is there.
	switch err := l.rmdir(ctx, op, dst); {
	case err == nil, errors.Is(err, object.ErrNotFound):
	default:
		return err
	}
	return l.rename(ctx, op, dst, src)
}

func (l *Lake) rename(ctx context.Context, op, dst, src string) error {
	r := lakeRequest{method: http.MethodPut, path: l.path(dst), query: url.Values{"mode": {"legacy"}}, header: map[string]string{
		"x-ms-rename-source": "/" + url.PathEscape(l.cfg.Container) + "/" + escapePath(l.path(src)),
	}}
	for try := 0; ; try++ {
		_, err := l.lakeDo(ctx, op, src, r)
		var code *codeError
		if try > 0 || !errors.As(err, &code) || code.code != "RenameDestinationParentPathNotFound" {
			return err
		}
		parent := parentOf(dst)
		if parent == "" {
			return err
		}
		if err := l.mkdir(ctx, op, parent, nil); err != nil && !errors.Is(err, object.ErrExists) {
			return err
		}
	}
}

// Mkdir implements object.Tree.
func (l *Lake) Mkdir(ctx context.Context, dir string) error {
	if err := l.beginDir(ctx, "mkdir", false, dir); err != nil {
		return err
	}
	return l.mkdir(ctx, "mkdir", dir, map[string]string{madeOnPurpose: "true"})
}

func (l *Lake) mkdir(ctx context.Context, op, dir string, meta map[string]string) error {
	r := lakeRequest{method: http.MethodPut, path: l.path(dir), query: url.Values{"resource": {"directory"}}, header: map[string]string{"If-None-Match": "*"}}
	if len(meta) > 0 {
		r.header["x-ms-properties"] = properties(meta)
	}
	_, err := l.lakeDo(ctx, op, dir, r)
	return err
}

// Rmdir implements object.Tree.
func (l *Lake) Rmdir(ctx context.Context, dir string) error {
	const op = "rmdir"
	if err := l.beginDir(ctx, op, false, dir); err != nil {
		return err
	}
	if _, err := l.HeadDir(ctx, dir); err != nil {
		return err
	}
	return l.rmdir(ctx, op, dir)
}

// rmdir removes what is an empty directory, or a file.
func (l *Lake) rmdir(ctx context.Context, op, dir string) error {
	_, err := l.lakeDo(ctx, op, dir, lakeRequest{method: http.MethodDelete, path: l.path(dir), query: url.Values{"recursive": {"false"}}})
	if errors.Is(err, errNotEmpty) {
		return &object.Error{Op: op, Key: dir, Err: fmt.Errorf("%w: %w", object.ErrExists, syscall.ENOTEMPTY)}
	}
	return err
}

// HeadDir implements object.Tree.
func (l *Lake) HeadDir(ctx context.Context, dir string) (object.Info, error) {
	info, _, err := l.headDir(ctx, dir)
	return info, err
}

func (l *Lake) headDir(ctx context.Context, dir string) (info object.Info, purpose bool, err error) {
	const op = "head directory"
	if err := l.beginDir(ctx, op, true, dir); err != nil {
		return object.Info{}, false, err
	}
	h, err := l.lakeDo(ctx, op, dir, lakeRequest{method: http.MethodHead, path: l.path(dir)})
	if err != nil {
		return object.Info{}, false, err
	}
	if l.path(dir) != "" && h.Get("x-ms-resource-type") != "directory" {
		return object.Info{}, false, &object.Error{Op: op, Key: dir, Err: object.ErrNotFound}
	}
	meta := parseProperties(h.Get("x-ms-properties"))
	tag, mod := headerInfo(dir, h)
	return describe(dir, 0, tag, mod, nil, meta, nil), meta[madeOnPurpose] != nil, nil
}

// Access implements object.Tree.
func (l *Lake) Access(ctx context.Context, path string) (object.Access, error) {
	const op = "get access"
	if err := l.beginDir(ctx, op, true, path); err != nil {
		return object.Access{}, err
	}
	h, err := l.lakeDo(ctx, op, path, lakeRequest{method: http.MethodHead, path: l.path(path), query: url.Values{"action": {"getAccessControl"}, "upn": {"false"}}})
	if err != nil {
		return object.Access{}, err
	}
	mode, err := parseMode(h.Get("x-ms-permissions"))
	if err != nil {
		return object.Access{}, &object.Error{Op: op, Key: path, Err: l.nonsense(err.Error())}
	}
	return object.Access{Owner: h.Get("x-ms-owner"), Group: h.Get("x-ms-group"), Mode: mode, ACL: h.Get("x-ms-acl")}, nil
}

// SetAccess implements object.Tree.
func (l *Lake) SetAccess(ctx context.Context, path string, a object.AccessChange) error {
	const op = "set access"
	if err := l.beginDir(ctx, op, true, path); err != nil {
		return err
	}
	h := make(map[string]string)
	if a.Owner != nil {
		h["x-ms-owner"] = *a.Owner
	}
	if a.Group != nil {
		h["x-ms-group"] = *a.Group
	}
	if a.Mode != nil {
		h["x-ms-permissions"] = formatMode(*a.Mode)
	}
	if a.ACL != nil {
		h["x-ms-acl"] = *a.ACL
	}
	switch {
	case a.Mode != nil && a.ACL != nil:
		return &object.Error{Op: op, Key: path, Err: invalid("mode and access control list exclude each other")}
	case len(h) == 0:
		return nil
	}
	_, err := l.lakeDo(ctx, op, path, lakeRequest{method: http.MethodPatch, path: l.path(path), query: url.Values{"action": {"setAccessControl"}}, header: h})
	return err
}

// formatMode writes a mode as the service reads it: four octal digits.
func formatMode(m fs.FileMode) string {
	bits := uint32(m.Perm())
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return fmt.Sprintf("%04o", bits)
}

// parseMode parses "rwxr-x--T" with a '+' at the end of those that have an ACL, or
// octal digits.
func parseMode(s string) (fs.FileMode, error) {
	bad := fmt.Errorf("permissions %q", s)
	s = strings.TrimSuffix(s, "+")
	if len(s) == 3 || len(s) == 4 {
		n, err := strconv.ParseUint(s, 8, 16)
		if err != nil || n > 0o1777 {
			return 0, bad
		}
		m := fs.FileMode(n & 0o777)
		if n&0o1000 != 0 {
			m |= fs.ModeSticky
		}
		return m, nil
	}
	if len(s) != 9 {
		return 0, bad
	}
	var m fs.FileMode
	for i, c := range []byte(s) {
		bit := fs.FileMode(1) << (8 - i)
		switch {
		case c == "rwxrwxrwx"[i]:
			m |= bit
		case c == '-':
		case i == 8 && c == 't':
			m |= bit | fs.ModeSticky
		case i == 8 && c == 'T':
			m |= fs.ModeSticky
		default:
			return 0, bad
		}
	}
	return m, nil
}

func parentOf(key string) string {
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return ""
	}
	return key[:i]
}

// Delete implements object.Store. Directories that it leaves empty go as well,
// unless Mkdir made them or Config.KeepDirectories is set.
func (l *Lake) Delete(ctx context.Context, keys ...string) error {
	err := l.deleteKeys(ctx, l.deleteFile, false, keys)
	if ctx.Err() != nil {
		return err
	}
	var failed *object.DeleteError
	errors.As(err, &failed)
	gone := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		return l.validKey(key) != nil || failed != nil && failed.Failed[key] != nil
	})
	return errors.Join(err, l.prune(ctx, gone...))
}

func (l *Lake) deleteFile(ctx context.Context, key string) error {
	err := l.deleteOne(ctx, key)
	if errors.Is(err, errNotEmpty) || errors.Is(err, errOtherType) { // a directory is no object
		return nil
	}
	return err
}

// prune removes the directories that held keys, from the bottom up, as far as they
// are empty and not made on purpose. What somebody puts into one meanwhile keeps
// it: the service removes none that is not empty.
func (l *Lake) prune(ctx context.Context, keys ...string) error {
	if l.cfg.KeepDirectories {
		return nil
	}
	dirs := make(map[string]bool)
	for _, key := range keys {
		for dir := parentOf(key); dir != "" && !dirs[dir]; dir = parentOf(dir) {
			dirs[dir] = true
		}
	}
	// Longer first: what is below comes before what is above.
	order := make([]string, 0, len(dirs))
	for dir := range dirs {
		order = append(order, dir)
	}
	slices.SortFunc(order, func(a, b string) int { return len(b) - len(a) })
	full := make(map[string]bool)
	for _, dir := range order {
		if full[dir] {
			full[parentOf(dir)] = true
			continue
		}
		_, purpose, err := l.headDir(ctx, dir)
		if errors.Is(err, object.ErrNotFound) {
			continue
		}
		if err == nil && !purpose {
			err = l.rmdir(ctx, "delete", dir)
		}
		switch {
		case err == nil && !purpose, errors.Is(err, object.ErrNotFound):
		case purpose, errors.Is(err, object.ErrExists):
			full[parentOf(dir)] = true
		default:
			return err
		}
	}
	return nil
}
