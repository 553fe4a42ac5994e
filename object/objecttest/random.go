package objecttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/object"
)

// testRandom does random operations and compares each answer with a map.
// MASSIF_OBJECTTEST_STEPS has it do more.
func (s *suite) testRandom(t *testing.T, store object.Store) {
	steps := 300
	if v, err := strconv.Atoi(os.Getenv("MASSIF_OBJECTTEST_STEPS")); err == nil {
		steps = v
	}
	m := &model{
		t: t, store: store, rng: rand.New(rand.NewPCG(testseed.Of(t, 1), 1)),
		objects: make(map[string][]byte), etags: make(map[string]string),
		keys: s.keepable(t, store, []string{
			"a", "a/b", "a/b/c", "a!", "a/b!", "ab", "b/1", "b/2", "b/sub/1", "b/sub/2", "b.", "c d/e f", "é/1", "z", "z+", "z%2F/x", "deep/er/and/deeper",
		}),
	}
	for m.step = 1; m.step <= steps && !t.Failed(); m.step++ {
		m.one(t.Context())
	}
}

type model struct {
	t       *testing.T
	store   object.Store
	rng     *rand.Rand
	step    int
	keys    []string
	objects map[string][]byte
	etags   map[string]string // of the objects, and of those that were
}

func (m *model) key() string { return m.keys[m.rng.IntN(len(m.keys))] }

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Errorf("step %d: "+format, append([]any{m.step}, args...)...)
}

// expect checks the outcome of an operation that should end with want, nil for
// success. It reports whether it succeeded.
func (m *model) expect(what string, err, want error) bool {
	m.t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		m.fail("%s: %v, want %v", what, err, want)
	}
	return err == nil
}

func (m *model) one(ctx context.Context) {
	switch m.rng.IntN(10) {
	case 0, 1, 2:
		m.put(ctx)
	case 3:
		m.copy(ctx)
	case 4:
		m.rename(ctx)
	case 5:
		keys := []string{m.key(), m.key()}[:1+m.rng.IntN(2)]
		m.expect(fmt.Sprintf("delete %q", keys), m.store.Delete(ctx, keys...), nil)
		for _, key := range keys {
			delete(m.objects, key)
		}
	case 6, 7:
		m.get(ctx)
	default:
		m.list()
	}
}

func (m *model) put(ctx context.Context) {
	key := m.key()
	_, there := m.objects[key]
	var opts object.PutOptions
	var want error
	caps := m.store.Capabilities()
	switch m.rng.IntN(4) {
	case 0:
		if opts.IfAbsent = caps.PutIfAbsent; opts.IfAbsent && there {
			want = object.ErrExists
		}
	case 1:
		if etag := m.etags[m.key()]; caps.PutIfMatch && etag != "" {
			opts.IfMatch = etag
			if !there || etag != m.etags[key] {
				want = object.ErrPrecondition
			}
		}
	}
	data := content(uint64(m.step), m.rng.IntN(3000))
	size := int64(len(data))
	var body io.Reader = bytes.NewReader(data)
	if m.rng.IntN(3) == 0 {
		body, size = onlyReader{body}, -1
	}
	info, err := m.store.Put(ctx, key, body, size, &opts)
	if m.expect(fmt.Sprintf("put %q %+v", key, opts), err, want) {
		m.objects[key], m.etags[key] = data, info.ETag
	}
}

func (m *model) copy(ctx context.Context) {
	dst, src := m.key(), m.key()
	data, there := m.objects[src]
	var want error
	switch {
	case dst == src:
		return
	case !there:
		want = object.ErrNotFound
	}
	info, err := m.store.Copy(ctx, dst, src, nil)
	if m.expect(fmt.Sprintf("copy %q to %q", src, dst), err, want) {
		m.objects[dst], m.etags[dst] = data, info.ETag
	}
}

func (m *model) rename(ctx context.Context) {
	r, ok := object.As[object.Renamer](m.store)
	dst, src := m.key(), m.key()
	if !ok || dst == src {
		return
	}
	data, there := m.objects[src]
	var want error
	if !there {
		want = object.ErrNotFound
	}
	if m.expect(fmt.Sprintf("rename %q to %q", src, dst), r.Rename(ctx, dst, src), want) {
		delete(m.objects, src)
		m.objects[dst] = data
		head, err := m.store.Head(ctx, dst)
		m.expect("head of what was renamed", err, nil)
		m.etags[dst] = head.ETag
	}
}

func (m *model) get(ctx context.Context) {
	key := m.key()
	data, there := m.objects[key]
	off, n := m.rng.IntN(len(data)+10), m.rng.IntN(3000)
	if m.rng.IntN(2) == 0 {
		p := make([]byte, n+1)
		got, err := object.ReadRange(ctx, m.store, key, p, int64(off))
		part := data[min(off, len(data)):]
		var want error
		switch {
		case !there:
			want = object.ErrNotFound
		case len(part) < len(p):
			want = io.ErrUnexpectedEOF
		}
		m.expect(fmt.Sprintf("read %q %d+%d", key, off, len(p)), err, want)
		if part = part[:min(len(part), len(p))]; there && !bytes.Equal(p[:got], part) {
			m.fail("read %q %d+%d: %s, want %s", key, off, len(p), brief(p[:got]), brief(part))
		}
		return
	}
	body, info, err := m.store.Get(ctx, key, int64(off), int64(n))
	if !there {
		m.expect("get "+key, err, object.ErrNotFound)
		return
	}
	if !m.expect("get "+key, err, nil) {
		return
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	part := data[min(off, len(data)):]
	part = part[:min(n, len(part))]
	if err != nil || !bytes.Equal(got, part) || info.Size != int64(len(data)) || info.ETag != m.etags[key] {
		m.fail("get %q %d+%d: %s of %d, ETag %s, %v; want %s of %d, ETag %s", key, off, n, brief(got), info.Size, info.ETag, err, brief(part), len(data), m.etags[key])
	}
}

func (m *model) list() {
	opts := object.ListOptions{Limit: m.rng.IntN(4)}
	if m.rng.IntN(2) == 0 {
		opts.Delimiter = "/"
	}
	if key := m.key(); m.rng.IntN(2) == 0 {
		opts.Prefix = key[:m.rng.IntN(len(key)+1)]
	}
	if key := m.key(); m.rng.IntN(2) == 0 {
		opts.StartAfter = key[:m.rng.IntN(len(key)+1)]
	}
	// A cut inside of a character makes no valid string, and no store must take it.
	opts.Prefix, opts.StartAfter = string(bytes.ToValidUTF8([]byte(opts.Prefix), nil)), string(bytes.ToValidUTF8([]byte(opts.StartAfter), nil))
	wantKeys, wantPrefixes := modelList(slices.Collect(maps.Keys(m.objects)), opts)
	gotKeys, gotPrefixes := list(m.t, m.store, opts)
	if !slices.Equal(gotKeys, wantKeys) || !slices.Equal(gotPrefixes, wantPrefixes) {
		m.fail("list %+v: %q %q, want %q %q", opts, gotKeys, gotPrefixes, wantKeys, wantPrefixes)
	}
}
