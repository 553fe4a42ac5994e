package flist

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// Walk calls fn with every entry of an image, directories before what is below them:
// the path of the directory that it lies in ("" for the root), and the entry. The root
// itself comes first, with the name "". An error of fn ends it.
func Walk(ctx context.Context, im Image, fn func(dir string, e *Entry) error) error {
	a, err := im.Attr(ctx, Root)
	if err != nil {
		return err
	}
	if err := fn("", &Entry{Attr: a}); err != nil {
		return err
	}
	return walk(ctx, im, Root, "", 0, fn)
}

func walk(ctx context.Context, im Image, dir uint64, path string, depth int, fn func(string, *Entry) error) error {
	if depth > maxDepth {
		return badImage("its directories lie more than %d deep", maxDepth)
	}
	after := uint64(0)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		list, err := im.ReadDir(ctx, dir, after, 256)
		if err != nil || len(list) == 0 {
			return err
		}
		for i := range list {
			e := &list[i]
			after = e.Cookie
			if err := fn(path, e); err != nil {
				return err
			}
			if e.Attr.Type() == syscall.S_IFDIR {
				if err := walk(ctx, im, e.Attr.Ino, joinPath(path, e.Name), depth+1, fn); err != nil {
					return err
				}
			}
		}
	}
}

// VerifyStats count what Verify has looked at.
type VerifyStats struct {
	Inodes   int64    `json:"inodes"`
	Blocks   int64    `json:"blocks"` // named by files, equal ones counted once where they are remembered
	Bytes    int64    `json:"bytes"`  // plain text of those
	Problems []string `json:"problems,omitempty"`
}

// maxProblems bounds the problems that are listed.
const maxProblems = 100

// Verify reads a whole image and every block that it names. What it finds wrong is
// listed, up to a bound; the error is that of ctx or of an image that cannot be walked.
// progress, if not nil, is called after each file.
func Verify(ctx context.Context, im Image, r *Router, progress func(VerifyStats)) (s VerifyStats, err error) {
	const workers = 8
	type result struct {
		bytes   int64
		problem string
	}
	seen := map[string]bool{}
	err = Walk(ctx, im, func(dir string, e *Entry) error {
		s.Inodes++
		path := "/" + joinPath(dir, e.Name)
		note := func(problem string) {
			if len(s.Problems) < maxProblems {
				s.Problems = append(s.Problems, path+": "+problem)
			}
		}
		switch e.Attr.Type() {
		case syscall.S_IFLNK:
			if _, err := im.Readlink(ctx, e.Attr.Ino); err != nil {
				note(err.Error())
			}
		case syscall.S_IFREG:
			g := errgroup.Group{}
			g.SetLimit(workers)
			results := make(chan result, workers)
			collected := make(chan struct{})
			go func() {
				defer close(collected)
				for r := range results {
					s.Blocks++
					s.Bytes += r.bytes
					if r.problem != "" {
						note(r.problem)
					}
				}
			}()
			err := EachBlock(ctx, im, &e.Attr, func(_ int64, b Block, size int) error {
				if seen[string(b.ID)] {
					return nil
				}
				if len(seen) >= knownBlocks {
					clear(seen)
				}
				seen[string(b.ID)] = true
				g.Go(func() error {
					buf := packBuffers.Get().(*[BlockSize]byte)
					defer packBuffers.Put(buf)
					plain, err := r.Fetch(ctx, b, buf[:])
					switch {
					case err != nil:
						results <- result{problem: err.Error()}
					case len(plain) < size:
						results <- result{problem: fmt.Sprintf("block %v has %d bytes, not %d", b, len(plain), size)}
					default:
						results <- result{bytes: int64(len(plain))}
					}
					return nil
				})
				return nil
			})
			err = errors.Join(err, g.Wait())
			close(results)
			<-collected
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				note(err.Error())
			}
			if progress != nil {
				progress(s)
			}
		}
		return nil
	})
	return s, err
}
