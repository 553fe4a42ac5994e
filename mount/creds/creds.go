// Package creds keeps the credentials with which a machine mounts a shared volume,
// or a server shows itself to the admin server: a TOML file of mode 0600.
//
//	adminAddr = "admin.example.com:443"
//	token = "0b5c…"
//	secret = "correct horse battery staple"    # encrypted volumes: the passphrase
//	fingerprint = "sha256:…"                   # by which the admin server is recognized
//
// The first three keys are those of mount.flexfs. How the admin server is recognized
// is decided once, when the file is made (FirstContact), and kept in it: by a
// fingerprint, by an authority ("ca", PEM), by those that the operating system trusts
// (neither), or not at all ("insecure").
package creds

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"

	"github.com/massif-fs/massif/service/admin/adminapi"
)

// File is the content of a credentials file.
type File struct {
	AdminAddr string `toml:"adminAddr"`
	Secret    string `toml:"secret,omitempty"`
	Token     string `toml:"token"`

	Fingerprint string `toml:"fingerprint,omitempty"`
	CA          string `toml:"ca,omitempty"`
	Insecure    bool   `toml:"insecure,omitempty"`
	// KeyID names the key of an encrypted volume, so that the server cannot pass
	// another one, or none, for it.
	KeyID string `toml:"keyID,omitempty"`
}

// maxFile bounds a credentials file, in bytes.
const maxFile = 64 << 10

// Trust is how the admin server is recognized.
func (f *File) Trust() adminapi.Trust {
	return adminapi.Trust{Fingerprint: f.Fingerprint, CA: f.CA, Insecure: f.Insecure}
}

// Client makes a client of the admin server.
func (f *File) Client() (*adminapi.Client, error) {
	return adminapi.NewClient(f.AdminAddr, f.Token, f.Trust())
}

// Parse reads the text of a credentials file and checks it. Errors do not repeat
// values.
func Parse(data []byte) (*File, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	f := &File{}
	d := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	if err := d.Decode(f); err != nil {
		return nil, explain(err)
	}
	return f, f.validate()
}

// explain makes a sentence of the library's errors, which show the text around.
func explain(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		return fmt.Errorf("the key %q is not known; known are adminAddr, token, secret, fingerprint, ca, insecure and keyID", strings.Join(unknown.Errors[0].Key(), "."))
	}
	var d *toml.DecodeError
	if errors.As(err, &d) {
		line, column := d.Position()
		return fmt.Errorf("line %d, column %d is not well formed; a line is written KEY = \"VALUE\"", line, column)
	}
	return errors.New("it is not well formed; a line is written KEY = \"VALUE\"")
}

func (f *File) validate() (err error) {
	if f.AdminAddr == "" {
		return errors.New(`the key "adminAddr" is missing`)
	}
	if f.AdminAddr, err = adminapi.Address(f.AdminAddr); err != nil {
		return err
	}
	if f.Token == "" {
		return errors.New(`the key "token" is missing`)
	}
	if f.Token, err = adminapi.ParseToken(f.Token); err != nil {
		return err
	}
	if f.Fingerprint != "" {
		if f.Fingerprint, err = adminapi.ParseFingerprint(f.Fingerprint); err != nil {
			return err
		}
	}
	if f.Insecure && (f.Fingerprint != "" || f.CA != "") {
		return errors.New(`the key "insecure" contradicts "fingerprint" and "ca"`)
	}
	return nil
}

// Read reads a credentials file. One that others may read is refused.
func Read(path string) (*File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, &MissingError{Path: path}
		}
		return nil, fmt.Errorf("credentials: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("credentials: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("credentials %s: not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("credentials %s can be read by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	f, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("credentials %s: %w", path, err)
	}
	return f, nil
}

// MissingError says that there are no credentials.
type MissingError struct{ Path string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("there are no credentials at %s", e.Path)
}

// Unwrap makes errors.Is(err, os.ErrNotExist) true.
func (e *MissingError) Unwrap() error { return os.ErrNotExist }

// ExistsError says that a file is there and was not to be replaced.
type ExistsError struct{ Path string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("there are credentials at %s already; --force replaces them", e.Path)
}

// Write writes a credentials file with mode 0600, whole or not at all, and makes its
// directory with mode 0700. Without replace an existing one is an *ExistsError.
func (f *File) Write(path string, replace bool) error {
	if err := f.validate(); err != nil {
		return err
	}
	data, err := f.marshal()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".creds-*") // mode 0600
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(data)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	if replace {
		err = os.Rename(temp.Name(), path)
	} else if err = os.Link(temp.Name(), path); errors.Is(err, os.ErrExist) {
		return &ExistsError{path}
	}
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	return nil
}

// marshal writes the file as flexFS does: a key and a text in double quotes a line.
func (f *File) marshal() ([]byte, error) {
	var b bytes.Buffer
	line := func(key, value string) error {
		if value == "" {
			return nil
		}
		if !utf8.ValidString(value) {
			return fmt.Errorf("credentials: the value of %q is not text in UTF-8", key)
		}
		fmt.Fprintf(&b, "%s = \"", key)
		for _, r := range value {
			switch {
			case r == '"' || r == '\\':
				b.WriteByte('\\')
				b.WriteRune(r)
			case r == '\n':
				b.WriteString(`\n`)
			case r < 0x20 || r == 0x7f:
				fmt.Fprintf(&b, `\u%04X`, r)
			default:
				b.WriteRune(r)
			}
		}
		b.WriteString("\"\n")
		return nil
	}
	err := errors.Join(line("adminAddr", f.AdminAddr), line("secret", f.Secret), line("token", f.Token))
	if f.Fingerprint != "" {
		b.WriteString("# by which the admin server is recognized\n")
	}
	err = errors.Join(err, line("fingerprint", f.Fingerprint), line("ca", f.CA))
	if f.Insecure {
		b.WriteString("# nobody checks who the admin server is\ninsecure = true\n")
	}
	err = errors.Join(err, line("keyID", f.KeyID))
	return b.Bytes(), err
}

// maxSecret bounds a secret read from a file, in bytes.
const maxSecret = 4096

// ReadSecret reads a token or passphrase up to the end of r, but for a line feed at its
// end.
func ReadSecret(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("secret: %w", err)
	}
	if len(data) > maxSecret {
		return "", fmt.Errorf("the secret is longer than %d bytes", maxSecret)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}
