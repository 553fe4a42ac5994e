package mount

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/massif-fs/massif/service/admin/adminapi"
)

// Parse makes a spec of what a user names as the source of a mount:
//
//   - "file:///dir": a local directory, passed through;
//   - "s3://BUCKET/PREFIX", "az://…", "adls://…", "gs://…": a bucket, or a part of one;
//   - "HOST/VOLUME" or "HOST:PORT/VOLUME": a shared volume, by way of its admin server;
//   - a path (with a '/' in it) or a name that ends in .yaml, .yml or .json: a spec file;
//   - one that ends in .fl or .flist: an image;
//   - anything else: a volume by name.
//
// It does not touch what the spec names.
func Parse(source string) (*Spec, error) {
	if source == "" {
		return nil, &UsageError{fmt.Errorf("the source is empty: name a volume, a spec file or a URL such as file:///dir")}
	}
	if strings.Contains(source, "://") {
		tree, err := parseURL(source)
		if err != nil {
			return nil, err
		}
		return &Spec{Tree: tree, Source: source}, nil
	}
	switch filepath.Ext(source) {
	case ".yaml", ".yml", ".json":
		return ReadSpec(source)
	case ".fl", ".flist":
		path, err := filepath.Abs(source)
		if err != nil {
			return nil, err
		}
		return &Spec{Tree: Tree{Kind: "image", Config: &ImageTree{Path: path}}, Source: source}, nil
	}
	if tree, ok := sharedVolumeOf(source); ok && !exists(source) {
		return &Spec{Tree: Tree{Kind: "shared", Config: tree}, Source: source}, nil
	}
	if strings.Contains(source, "/") {
		return ReadSpec(source)
	}
	return &Spec{Tree: Tree{Kind: "volume", Config: &VolumeTree{Name: source}}, Source: source}, nil
}

// sharedVolumeOf takes HOST/VOLUME, and nothing that begins as a path does. For a mount a
// file of that name is a spec all the same.
func sharedVolumeOf(source string) (*SharedTree, bool) {
	host, name, ok := strings.Cut(source, "/")
	if !ok || host == "" || host[0] == '.' || !validVolumeName(name) {
		return nil, false
	}
	if !strings.ContainsAny(host, ".:") && host != "localhost" {
		return nil, false
	}
	if _, err := adminapi.Address(host); err != nil {
		return nil, false
	}
	return &SharedTree{Admin: host, Volume: name}, true
}

func parseURL(source string) (Tree, error) {
	u, err := url.Parse(source)
	if err != nil {
		// The library's error repeats the URL, which may hold a password.
		return Tree{}, &UsageError{fmt.Errorf("the source is not a well-formed URL")}
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" {
			return Tree{}, &UsageError{fmt.Errorf("source %s: a file URL has three slashes, such as file:///%s%s", source, u.Host, u.Path)}
		}
		if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return Tree{}, &UsageError{fmt.Errorf("source %s: a file URL has a path and nothing else", source)}
		}
		if !filepath.IsAbs(u.Path) {
			return Tree{}, &UsageError{fmt.Errorf("source %s: the path must be absolute", source)}
		}
		return Tree{Kind: "local", Config: &LocalTree{Path: filepath.Clean(u.Path)}}, nil
	case "s3", "az", "adls", "gs":
		tree := &BucketTree{Store: source}
		return Tree{Kind: "bucket", Config: tree}, tree.Validate()
	case "azure", "abfs", "abfss", "gcs":
		return Tree{}, &UsageError{fmt.Errorf("source %s://: write az://CONTAINER/PREFIX?account=NAME, adls://CONTAINER/PREFIX?account=NAME or gs://BUCKET/PREFIX", u.Scheme)}
	}
	return Tree{}, &UsageError{fmt.Errorf("unknown kind of source %s://; known are file:///DIR, s3://, az://, adls:// and gs:// (and a volume's name, or a spec file)", u.Scheme)}
}

// ResolvePoint returns the mount point as an absolute path without symbolic
// links, as the kernel will show it. It does not ask what is mounted there, which may
// be a mount whose server is gone or does not answer.
func ResolvePoint(point string) (string, error) {
	if point == "" {
		return "", &UsageError{fmt.Errorf("the mount point is empty")}
	}
	abs, err := filepath.Abs(point)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		if os.IsNotExist(err) {
			return "", fmt.Errorf("mount point %s does not exist", point)
		}
		return "", fmt.Errorf("mount point %s: %w", point, err)
	}
	direct := filepath.Join(dir, filepath.Base(abs))
	if _, mounted, err := mountedAt(direct); err != nil || mounted {
		return direct, err
	}
	if resolved, err := filepath.EvalSymlinks(abs); err == nil {
		return resolved, nil
	}
	return direct, nil // what is wrong with it is found where it is used
}
