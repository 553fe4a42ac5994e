package object

import (
	"context"
	"io/fs"
)

// Tree is the optional ability of a store whose keys are the paths of files in a
// real tree: directories last, are renamed as a whole in one step, and, as files
// do, have owner, group, mode and access control list. Found by As.
//
// Directories are named without a '/' at their end; "" is the root of the store.
type Tree interface {
	Renamer
	// RenameDir renames a directory with all in it atomically. dst must be missing
	// or an empty directory (else ErrExists), its parent is made if missing.
	RenameDir(ctx context.Context, dst, src string) error
	// Mkdir makes a directory, and its parents. An existing one, or a file, gives
	// ErrExists.
	Mkdir(ctx context.Context, dir string) error
	// Rmdir removes an empty directory. One with something in it gives an error
	// that wraps ErrExists and ENOTEMPTY, a missing one ErrNotFound.
	Rmdir(ctx context.Context, dir string) error
	// HeadDir describes a directory, ErrNotFound if there is none of that name.
	// Size is 0.
	HeadDir(ctx context.Context, dir string) (Info, error)
	// Access returns owner, group, mode and ACL of a file or directory.
	Access(ctx context.Context, path string) (Access, error)
	// SetAccess changes those of them that are not empty. Mode and ACL exclude each
	// other.
	SetAccess(ctx context.Context, path string, a AccessChange) error
}

// Access says who may do what with a file or directory.
type Access struct {
	Owner, Group string      // as the store names them: object IDs, or "$superuser"
	Mode         fs.FileMode // permission bits and fs.ModeSticky
	ACL          string      // POSIX access control list in text form, "user::rwx,group::r-x,…"
}

// AccessChange is what SetAccess changes: nil is left as it is.
type AccessChange struct {
	Owner, Group *string
	Mode         *fs.FileMode
	ACL          *string
}
