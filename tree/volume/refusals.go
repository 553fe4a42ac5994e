package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// A change that is refused because the file's layout is not what this mount took it for
// (meta.ErrLayout) is begun again with what the metadata say now, as often as it takes:
// each refusal means that a change of another mount has got through, so all together
// make progress, and no count of them would be a reason to fail. It ends with
// the caller's context.

// refusals are those of one operation.
type refusals struct {
	count int
	seen  []looks // of the files when it was begun again the last time
	same  int     // how often in a row nothing about them was new
}

// looks are by what a change of a file would show.
type looks struct {
	size          int64
	based, inline bool
	sum           uint64
	ctime         vfs.Time
}

const (
	// maxTogether is how many refusals the files of one flush share. Then each is
	// flushed alone.
	maxTogether = 4
	// quickTries is how often an operation is begun again at once, maxPause bounds the
	// random pause from then on.
	quickTries = 16
	maxPause   = 10 * time.Millisecond
	// maxSame is how often the metadata may refuse what nobody has changed, as far
	// as can be seen: they contradict themselves, and would for ever.
	maxSame = 64
)

// again is called when a change of jobs' files was refused, each time after or each time before
// their bases are loaded anew. It returns an error if it must not be tried again.
func (r *refusals) again(ctx context.Context, jobs ...*job) error {
	r.count++
	seen := make([]looks, len(jobs))
	for i, j := range jobs {
		n := j.n
		n.mu.RLock()
		seen[i] = looks{n.base, n.based, n.hasInline, meta.InlineSum(n.content), n.ctime}
		n.mu.RUnlock()
	}
	if r.same++; !slices.Equal(seen, r.seen) {
		r.seen, r.same = seen, 0
	}
	if r.same == maxSame {
		return vfs.WithErrno(syscall.EIO, fmt.Errorf("a change of inode %d was refused %d times because of the file's layout, which nobody has changed meanwhile", jobs[0].n.ino, r.count))
	}
	if r.count <= quickTries {
		return ctx.Err()
	}
	pause := time.NewTimer(rand.N(maxPause))
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-pause.C:
		return nil
	}
}
