package cloudfuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml/parser"

	"github.com/massif-fs/massif/internal/atomicfile"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/seal"
)

// cachePaths are the keys of directories of which each mount needs its own.
var cachePaths = []string{"file_cache.path", "block_cache.path", "xload.path"}

// mountAll mounts each bucket or container of an account below a directory.
func (p *Personality) mountAll(ctx context.Context, r *mountRequest, arg string) error {
	dir, err := cleanPoint(arg)
	if err != nil {
		return err
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("mount directory does not exist: %s", dir)
	}
	var pass seal.Passphrase
	if r.sealed() {
		if pass, err = r.pass(); err != nil { // once: it may be asked for
			return err
		}
		defer pass.Wipe()
		r.passphrase = string(pass)
	}
	s, err := r.settings()
	if err != nil {
		return err
	}
	forget()
	names, err := s.chosenBuckets(ctx)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		fmt.Fprintln(p.Out, "There is no container to mount")
		return nil
	}
	base, err := p.baseConfig(r)
	if err != nil {
		return err
	}
	done := 0
	for i, name := range names {
		point := filepath.Join(dir, name)
		fmt.Fprintf(p.Out, "Mounting container : %s to path %s\n", name, point)
		one := s.forBucket(name)
		one.warnings, one.quiet = s.warnings, i > 0 // they are the same for all
		if err := p.mountOne(ctx, r, one, name, point, base, pass); err != nil {
			fmt.Fprintf(p.Err, "%s: failed to mount container %s: %v\n", Failure, name, err)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		done++
	}
	_, err = fmt.Fprintf(p.Out, "%d of %d containers were successfully mounted\n", done, len(names))
	return err
}

// chosenBuckets are those of the account that the lists allow. The list of those that
// are allowed comes before that of those that are not.
func (s *settings) chosenBuckets(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	names, err := s.buckets(ctx)
	if err != nil {
		return nil, err
	}
	allow, deny := s.list("mountall.container-allowlist"), s.list("mountall.container-denylist")
	return slices.DeleteFunc(names, func(name string) bool {
		if len(allow) > 0 {
			return !slices.Contains(allow, name)
		}
		return slices.Contains(deny, name)
	}), nil
}

// forBucket are the settings of one of the mounts.
func (s *settings) forBucket(name string) *settings {
	one := s.clone()
	one.override(s.nameKey(), value{text: name})
	for _, key := range cachePaths {
		if s.has(key) {
			one.override(key, value{text: filepath.Join(s.path(key), name)})
		}
	}
	if one.list("components"); !s.has("file_cache.path") { // the default directory is that of one mount
		one.override("file_cache.path", value{text: filepath.Join(s.workDir(), "file_cache", name)})
	}
	return one
}

// baseConfig is the text of the configuration of which those of the mounts are made.
func (p *Personality) baseConfig(r *mountRequest) ([]byte, error) {
	text, err := r.text()
	if errors.Is(err, os.ErrNotExist) && !r.named {
		return nil, nil
	}
	return text, err
}

// mountOne mounts one bucket and keeps the configuration with which that was done.
func (p *Personality) mountOne(ctx context.Context, r *mountRequest, s *settings, name, point string, base []byte, pass seal.Passphrase) error {
	if err := os.MkdirAll(point, 0o755); err != nil && !mount.IsDead(point) {
		return err
	}
	if err := checkPoint(point); err != nil {
		return err
	}
	if err := s.complete(ctx); err != nil {
		return err
	}
	spec, err := p.prepare(ctx, s, point)
	if err != nil || r.dryRun {
		return err
	}
	if err := s.keepConfig(name, base, pass); err != nil {
		return fmt.Errorf("its configuration: %w", err)
	}
	return s.begin(ctx, spec, point)
}

// keepConfig writes the configuration of one mount into the working directory, encrypted
// if the one that it was made of is.
func (s *settings) keepConfig(name string, base []byte, pass seal.Passphrase) error {
	text := string(base)
	for _, key := range append([]string{s.nameKey()}, cachePaths...) {
		if !s.has(key) {
			continue
		}
		file, err := parser.ParseBytes([]byte(text), parser.ParseComments)
		if err != nil {
			return yamlError(err)
		}
		if text, err = setValue(file, splitKey(key), s.text(key)); err != nil {
			return err
		}
	}
	data, suffix := []byte(text), ".yaml"
	if pass != nil {
		var err error
		if data, err = seal.SealConfig(pass, data); err != nil {
			return err
		}
		suffix = sealedSuffix
	}
	dir := s.workDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "config_"+name+suffix), data, 0o600)
}
