package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/flist"
	"github.com/massif-fs/massif/mount"
)

func (a *app) imageCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "image",
		Aliases: []string{"flist"},
		Short:   "Make, look at and check images (.fl, .flist)",
		GroupID: "images",
		Long: `Make, look at and check images.

An image is one small file that describes a whole tree of files and names the
blocks of their content by hashes. The blocks lie in a store. Mounted, it shows at once,
and blocks are fetched when they are read:

  massif mount debian.fl /mnt/debian
  massif mount debian.fl /mnt/debian --layer web1 --size 2GiB   # and can be written to

Block stores are directories (dir:///DIR), web servers (https://HOST/BASE), 0-db and
Redis servers (zdb://[:PASSWORD@]HOST[:PORT][/NAMESPACE]), buckets
(s3://KEY:SECRET@HOST:PORT/BUCKET, s3://BUCKET/PREFIX, az://, gs://) and rfs servers
(server://http://HOST:PORT). With XX-YY= in front of the URL a store has the blocks
whose ids begin with these two digits.`,
	}, a.imagePackCommand(), a.imageUnpackCommand(), a.imageInspectCommand(), a.imageTreeCommand(), a.imageVerifyCommand())
}

// storesFlag adds --store.
func storesFlag(cmd *cobra.Command, stores *[]string, help string) {
	cmd.Flags().StringArrayVar(stores, "store", nil, help)
}

const storesHelp = "`[XX-YY=]URL` of a block store, instead of those that the image names; may be repeated"

func (a *app) imagePackCommand() *cobra.Command {
	var stores, tags []string
	var format string
	var keepSecrets bool
	var workers int
	cmd := &cobra.Command{
		Use:     "pack DIR IMAGE",
		Aliases: []string{"create"},
		Short:   "Make an image of a directory",
		Long: `Make the image file IMAGE of the directory DIR, and store the blocks that are new.

IMAGE must not exist. It appears when everything is stored; otherwise nothing is left
but blocks. A name that ends in .flist makes an image of version 1, every other one of
version 2 (.fl), which also keeps hard links, extended attributes and nanoseconds.

Passwords and tokens are taken out of the URLs that the image keeps, unless
--keep-secrets is given.`,
		Example: `  massif image pack ./rootfs debian.fl --store dir:///srv/blocks
  massif image pack ./rootfs debian.fl --store 00-7f=zdb://a.example.com/images --store 80-ff=zdb://b.example.com/images
  massif image pack ./rootfs debian.flist --store dir:///srv/blocks --tag author=me`,
		Args: exactArgs("DIR", "IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := imageVersion(format, args[1])
			if err != nil {
				return err
			}
			if len(stores) == 0 {
				return usageError("%s: name at least one block store with --store URL", cmd.CommandPath())
			}
			return a.packImage(cmd.Context(), args[0], args[1], version, stores, tags, keepSecrets, workers)
		},
	}
	a.jsonFlag(cmd)
	storesFlag(cmd, &stores, "`[XX-YY=]URL` of a block store; may be repeated")
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "`KEY=VALUE` that the image says of itself; may be repeated")
	cmd.Flags().StringVar(&format, "format", "", "fl or flist; otherwise told by IMAGE's name")
	cmd.Flags().BoolVar(&keepSecrets, "keep-secrets", false, "leave passwords and tokens in the URLs that the image keeps")
	cmd.Flags().IntVar(&workers, "workers", 0, "blocks made and stored at once (default: four a processor)")
	return cmd
}

func imageVersion(format, file string) (flist.Version, error) {
	switch format {
	case "fl":
		return flist.V2, nil
	case "flist":
		return flist.V1, nil
	case "":
		if filepath.Ext(file) == ".flist" {
			return flist.V1, nil
		}
		return flist.V2, nil
	}
	return 0, usageError("format %q is not known; there are fl and flist", format)
}

func (a *app) packImage(ctx context.Context, dir, file string, version flist.Version, stores, tags []string, keepSecrets bool, workers int) (err error) {
	routes, err := mount.ImageRoutes(stores)
	if err != nil {
		return err
	}
	router, err := flist.NewRouter(ctx, version, routes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, router.Close()) }()
	w, err := flist.Create(version, file)
	if err != nil {
		return err
	}
	bar := a.newProgress("packing", "bytes", 0)
	start := time.Now()
	stats, err := flist.Pack(ctx, dir, w, flist.PackOptions{Put: router.Put, Workers: workers, Progress: func(s flist.PackStats) { bar.set(s.Bytes, 0) }})
	bar.finish()
	if err == nil {
		err = a.labelImage(w, routes, tags, keepSecrets)
	}
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	if err := w.Finish(); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(struct {
			Image string `json:"image"`
			flist.PackStats
			Took time.Duration `json:"took_ns"`
		}{file, stats, time.Since(start)})
	}
	fmt.Fprintf(a.out, "image %s is made: %d names, %s of content, %s of new blocks\n", file, stats.Inodes, humanBytes(stats.Bytes), humanBytes(stats.StoredBytes))
	return nil
}

func (a *app) labelImage(w flist.Writer, routes flist.Routes, tags []string, keepSecrets bool) error {
	if !keepSecrets {
		for i := range routes {
			routes[i].URL = flist.WithoutSecrets(routes[i].URL)
		}
	}
	if err := w.SetRoutes(routes); err != nil {
		return err
	}
	for _, tag := range tags {
		key, value, ok := strings.Cut(tag, "=")
		if !ok || key == "" {
			return usageError("tag %q: write KEY=VALUE", tag)
		}
		if err := w.SetTag(key, value); err != nil {
			return err
		}
	}
	return nil
}

// withImage opens an image and its stores for a command.
func withImage(ctx context.Context, file string, stores []string, do func(flist.Image, *flist.Router) error) error {
	im, router, err := mount.OpenImage(ctx, file, stores)
	if err != nil {
		return err
	}
	return errors.Join(do(im, router), router.Close(), im.Close())
}

func (a *app) imageUnpackCommand() *cobra.Command {
	var stores []string
	cmd := &cobra.Command{
		Use:   "unpack IMAGE DIR",
		Short: "Write the tree of an image to a directory",
		Long: `Write the whole tree of an image to the directory DIR, which must be empty; it is made
if it does not exist. Root keeps the owners of the image; for others everything is theirs.`,
		Example: "  massif image unpack debian.fl /srv/debian",
		Args:    exactArgs("IMAGE", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd.Context(), args[0], stores, func(im flist.Image, r *flist.Router) error {
				if err := os.Mkdir(args[1], 0o755); err != nil && !errors.Is(err, os.ErrExist) {
					return err
				}
				bar := a.newProgress("unpacking", "bytes", 0)
				stats, err := flist.Unpack(cmd.Context(), im, r, args[1], flist.UnpackOptions{
					Owners: os.Geteuid() == 0, Progress: func(s flist.UnpackStats) { bar.set(s.Bytes, 0) },
				})
				bar.finish()
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(stats)
				}
				fmt.Fprintf(a.out, "%d names, %s of content written to %s\n", stats.Inodes, humanBytes(stats.Bytes), args[1])
				return nil
			})
		},
	}
	a.jsonFlag(cmd)
	storesFlag(cmd, &stores, storesHelp)
	return cmd
}

// imageInfo is what inspect shows.
type imageInfo struct {
	Image       string            `json:"image"`
	Format      string            `json:"format"`
	Names       int64             `json:"names"`
	Files       int64             `json:"files"`
	Directories int64             `json:"directories"`
	Links       int64             `json:"links"`
	Special     int64             `json:"special"`
	Bytes       int64             `json:"bytes"` // content of files; further names of an inode do not count
	Tags        map[string]string `json:"tags,omitempty"`
	Stores      []string          `json:"stores,omitempty"` // without secrets
}

func (a *app) imageInspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Tell what an image holds",
		Long: `Tell what an image holds: the version of its format, files and bytes, blocks, and the
stores that its blocks lie in.`,
		Example: "  massif image inspect debian.fl\n  massif image inspect debian.fl --json",
		Args:    exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			im, err := flist.Open(cmd.Context(), args[0], flist.OpenOptions{})
			if err != nil {
				return err
			}
			info, err := inspectImage(cmd.Context(), im)
			if err = errors.Join(err, im.Close()); err != nil {
				return err
			}
			info.Image = args[0]
			if a.json {
				return a.printJSON(info)
			}
			t := newTable(a.out)
			t.row("format", info.Format)
			t.row("names", fmt.Sprintf("%d: %d files, %d directories, %d links, %d special", info.Names, info.Files, info.Directories, info.Links, info.Special))
			t.row("content", humanBytes(info.Bytes))
			for _, s := range info.Stores {
				t.row("store", s)
			}
			keys := make([]string, 0, len(info.Tags))
			for k := range info.Tags {
				keys = append(keys, k)
			}
			sort.Strings(keys)
			for _, k := range keys {
				t.row("tag "+k, info.Tags[k])
			}
			return t.flush()
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func inspectImage(ctx context.Context, im flist.Image) (info imageInfo, err error) {
	info.Format = map[flist.Version]string{flist.V1: "flist (version 1)", flist.V2: "fl (version 2)"}[im.Version()]
	seen := map[uint64]bool{} // of several names
	err = flist.Walk(ctx, im, func(_ string, e *flist.Entry) error {
		info.Names++
		switch e.Attr.Type() {
		case syscall.S_IFDIR:
			info.Directories++
		case syscall.S_IFREG:
			info.Files++
			if e.Attr.Nlink < 2 || !seen[e.Attr.Ino] {
				info.Bytes += int64(e.Attr.Size)
			}
			if e.Attr.Nlink > 1 {
				seen[e.Attr.Ino] = true
			}
		case syscall.S_IFLNK:
			info.Links++
		default:
			info.Special++
		}
		return nil
	})
	if err != nil {
		return info, err
	}
	if info.Tags, err = im.Tags(ctx); err != nil {
		return info, err
	}
	delete(info.Tags, "backend") // it may hold a password, and is among the stores
	routes, err := im.Routes(ctx)
	for _, r := range routes {
		span := fmt.Sprintf("%x-%x=", r.Start, r.End)
		if span == "00-ff=" {
			span = ""
		}
		info.Stores = append(info.Stores, span+flist.WithoutSecrets(r.URL))
	}
	return info, err
}

func (a *app) imageTreeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tree IMAGE",
		Aliases: []string{"ls"},
		Short:   "List everything in an image",
		Long:    `List the path, mode, owner, size and time of everything in an image.`,
		Example: "  massif image tree debian.fl\n  massif image tree debian.fl --json | jq -r '.[].path'",
		Args:    exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			im, err := flist.Open(cmd.Context(), args[0], flist.OpenOptions{})
			if err != nil {
				return err
			}
			type line struct {
				Path   string    `json:"path"`
				Mode   string    `json:"mode"`
				UID    uint32    `json:"uid"`
				GID    uint32    `json:"gid"`
				Size   uint64    `json:"size"`
				Mtime  time.Time `json:"mtime"`
				Target string    `json:"target,omitempty"`
			}
			err = flist.Walk(cmd.Context(), im, func(dir string, e *flist.Entry) error {
				l := line{Path: "/" + strings.TrimPrefix(dir+"/"+e.Name, "/"), Mode: fmt.Sprintf("%06o", e.Attr.Mode), UID: e.Attr.UID, GID: e.Attr.GID, Size: e.Attr.Size, Mtime: e.Attr.Mtime.Time()}
				if e.Attr.Type() == syscall.S_IFLNK {
					var err error
					if l.Target, err = im.Readlink(cmd.Context(), e.Attr.Ino); err != nil {
						return err
					}
				}
				if a.json {
					return a.printJSON(l)
				}
				name := l.Path
				if l.Target != "" {
					name += " -> " + l.Target
				}
				if strings.ContainsAny(name, "\n\r\t\x1b") {
					name = strconv.Quote(name)
				}
				_, err := fmt.Fprintf(a.out, "%s %5d %5d %12d %s %s\n", l.Mode, l.UID, l.GID, l.Size, l.Mtime.Local().Format("2006-01-02 15:04"), name)
				return err
			})
			return errors.Join(err, im.Close())
		},
	}
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON, one object an entry")
	return cmd
}

func (a *app) imageVerifyCommand() *cobra.Command {
	var stores []string
	cmd := &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Fetch every block of an image and check it",
		Long: `Read the whole image, fetch every block that it names and compare it with its hashes.
The exit status is 1 if something is missing or wrong.`,
		Example: "  massif image verify debian.fl",
		Args:    exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd.Context(), args[0], stores, func(im flist.Image, r *flist.Router) error {
				bar := a.newProgress("verifying", "bytes", 0)
				stats, err := flist.Verify(cmd.Context(), im, r, func(s flist.VerifyStats) { bar.set(s.Bytes, 0) })
				bar.finish()
				if err != nil {
					return err
				}
				if a.json {
					if err := a.printJSON(stats); err != nil {
						return err
					}
				} else {
					for _, p := range stats.Problems {
						fmt.Fprintln(a.out, p)
					}
					fmt.Fprintf(a.out, "%d names, %d blocks, %s\n", stats.Inodes, stats.Blocks, humanBytes(stats.Bytes))
				}
				if len(stats.Problems) > 0 {
					return fmt.Errorf("image %s: %d problems", args[0], len(stats.Problems))
				}
				return nil
			})
		},
	}
	a.jsonFlag(cmd)
	storesFlag(cmd, &stores, storesHelp)
	return cmd
}
