package namespace_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/vfs"
)

// model is what doc/namespace.md says of merging, by paths and as simple as it gets.
type model struct {
	storages []map[string]string // path ("" the root) -> content; directories are dirContent
	mounts   []modelMount
}

const dirContent = "\x00dir"

type modelMount struct {
	id, storage int
	paths       []string
	ro          bool
}

// modelClaim is what a storage has at a path.
type modelClaim struct {
	m       modelMount
	rel     string
	isDir   bool
	content string
	root    bool
}

// below is where a path lies in what is mounted at a mount path.
func below(p, mountPath string) (rel string, ok bool) {
	switch {
	case p == mountPath:
		return "", true
	case mountPath == "/":
		return p[1:], true
	case strings.HasPrefix(p, mountPath+"/"):
		return p[len(mountPath)+1:], true
	}
	return "", false
}

func (m *model) claims(p string) (out []modelClaim) {
	for _, mt := range m.mounts {
		for _, at := range mt.paths {
			rel, ok := below(p, at)
			if !ok {
				continue
			}
			if content, ok := m.storages[mt.storage][rel]; ok {
				out = append(out, modelClaim{mt, rel, content == dirContent, content, rel == ""})
			}
		}
	}
	return out
}

// children are the names of nodes below a path.
func (m *model) children(p string) map[string]bool {
	out := map[string]bool{}
	for _, mt := range m.mounts {
		for _, at := range mt.paths {
			if rel, ok := below(at, p); ok && rel != "" {
				name, _, _ := strings.Cut(rel, "/")
				out[name] = true
			}
		}
	}
	return out
}

// node tells whether there is a node at a path, and whether it is a directory whatever
// is mounted there.
func (m *model) node(p string) (exists, synthetic bool) {
	here := 0
	for _, mt := range m.mounts {
		for _, at := range mt.paths {
			if at == p {
				here++
			}
		}
	}
	children := len(m.children(p))
	return p == "/" || here+children > 0, (p == "/" || here+children > 0) && (children > 0 || here != 1)
}

// entry is what a name in a directory means.
type entry struct {
	file  *modelClaim // nil: a directory
	dirs  []modelClaim
	synth bool
}

// entries are the names of a directory.
func (m *model) entries(p string) map[string]entry {
	names := m.children(p)
	for _, cl := range m.claims(p) {
		if !cl.isDir {
			continue
		}
		prefix := cl.rel + "/"
		if cl.rel == "" {
			prefix = ""
		}
		for rel := range m.storages[cl.m.storage] {
			if rest, ok := strings.CutPrefix(rel, prefix); ok && rest != "" && !strings.Contains(rest, "/") {
				names[rest] = true
			}
		}
	}
	out := map[string]entry{}
	// Shorter true names first: a name that is made of one wins over one that is true.
	var sorted []string
	for n := range names {
		sorted = append(sorted, n)
	}
	sort.Slice(sorted, func(i, j int) bool { return len(sorted[i]) < len(sorted[j]) })
	made, isDir := map[string]bool{}, map[string]bool{}
	for _, n := range sorted {
		_, synthetic := m.node(path.Join(p, n))
		dirs := onlyDirs(m.claims(path.Join(p, n)))
		isDir[n] = synthetic || len(dirs) > 0
	}
	for _, n := range sorted {
		full := path.Join(p, n)
		_, synthetic := m.node(full)
		claims := m.claims(full)
		var dirs, files []modelClaim
		for _, cl := range claims {
			if cl.isDir {
				dirs = append(dirs, cl)
			} else {
				files = append(files, cl)
			}
		}
		if isDir[n] {
			out[n] = entry{dirs: dirs, synth: synthetic}
		}
		for i := range files {
			as := n
			if len(claims) > 1 || synthetic || made[n] {
				stem, ext := n, ""
				if dot := strings.LastIndex(n, "."); dot > 0 {
					stem, ext = n[:dot], n[dot:]
				}
				as = fmt.Sprintf("%s.wl_%d%s", stem, files[i].m.id, ext)
				made[as] = true
			}
			if !isDir[as] {
				out[as] = entry{file: &files[i]}
			}
		}
	}
	return out
}

// find walks to a path.
func (m *model) find(p string) (entry, bool) {
	_, synthetic := m.node("/")
	e := entry{dirs: onlyDirs(m.claims("/")), synth: synthetic}
	at := "/"
	for _, name := range strings.Split(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		if e.file != nil {
			return e, false
		}
		next, ok := m.entries(at)[name]
		if !ok {
			return e, false
		}
		e, at = next, path.Join(at, name)
	}
	return e, true
}

func onlyDirs(all []modelClaim) (out []modelClaim) {
	for _, cl := range all {
		if cl.isDir {
			out = append(out, cl)
		}
	}
	return out
}

// writer is the layer of a directory that takes what is new.
func (e entry) writer() *modelClaim {
	var one *modelClaim
	for i := range e.dirs {
		if !e.dirs[i].m.ro {
			if one != nil {
				return nil
			}
			one = &e.dirs[i]
		}
	}
	if one == nil && len(e.dirs) == 1 && !e.synth {
		return &e.dirs[0]
	}
	return one
}

func join(rel, name string) string {
	if rel == "" {
		return name
	}
	return rel + "/" + name
}

// makes predicts the making of a name.
func (m *model) makes(p, content string) syscall.Errno {
	dir, ok := m.find(path.Dir(p))
	if !ok || dir.file != nil {
		return syscall.ENOENT
	}
	name := path.Base(p)
	if exists, _ := m.node(p); exists {
		return syscall.EEXIST
	}
	w := dir.writer()
	switch {
	case w == nil || w.m.ro:
		return syscall.EROFS
	case m.storages[w.m.storage][join(w.rel, name)] != "":
		return syscall.EEXIST
	}
	m.storages[w.m.storage][join(w.rel, name)] = content
	return 0
}

// removes predicts unlink and rmdir.
func (m *model) removes(p string, dir bool) syscall.Errno {
	e, ok := m.find(p)
	if !ok {
		return syscall.ENOENT
	}
	if e.file != nil {
		switch {
		case e.file.m.ro:
			return syscall.EROFS
		case dir:
			return syscall.ENOTDIR
		}
		delete(m.storages[e.file.m.storage], e.file.rel)
		return 0
	}
	w := e.writer()
	if !dir {
		if len(e.dirs) == 1 && !e.synth && w.m.ro {
			return syscall.EROFS
		}
		return syscall.EISDIR
	}
	exists, _ := m.node(p)
	switch {
	case w == nil:
		return syscall.EROFS
	case w.root:
		if len(m.storages[w.m.storage]) > 1 {
			return syscall.ENOTEMPTY
		}
		return syscall.EBUSY
	case w.m.ro:
		return syscall.EROFS
	case exists:
		return syscall.ENOTEMPTY
	}
	for rel := range m.storages[w.m.storage] {
		if strings.HasPrefix(rel, w.rel+"/") {
			return syscall.ENOTEMPTY
		}
	}
	delete(m.storages[w.m.storage], w.rel)
	return 0
}

// TestModel compares random namespaces, and random changes of them, with the model. The
// storages' names are few, so that they meet.
func TestModel(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runModel(t, uint64(seed)) })
	}
}

var modelNames = []string{"a", "b.txt", "c", "b.wl_1.txt", "b.wl_2.wl_1.txt", "a.wl_2"}

func runModel(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 77))
	w := newWorld(t)
	m := &model{}
	var roots []string
	for s := range 4 {
		root := t.TempDir()
		roots = append(roots, root)
		files := map[string]string{"": dirContent}
		dirs := []string{""}
		for range r.IntN(12) {
			rel := join(dirs[r.IntN(len(dirs))], modelNames[r.IntN(len(modelNames))])
			if files[rel] != "" {
				continue
			}
			if r.IntN(2) == 0 && strings.Count(rel, "/") < 2 {
				files[rel] = dirContent
				dirs = append(dirs, rel)
				if err := os.Mkdir(filepath.Join(root, rel), 0o755); err != nil {
					t.Fatal(err)
				}
			} else {
				files[rel] = fmt.Sprintf("%d:%s", s, rel)
				if err := os.WriteFile(filepath.Join(root, rel), []byte(files[rel]), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		m.storages = append(m.storages, files)
	}
	randomPath := func(deepest int) string {
		p := "/"
		for range r.IntN(deepest + 1) {
			p = path.Join(p, modelNames[r.IntN(len(modelNames))])
		}
		return p
	}
	for step := range 60 {
		var what string
		var got error
		var want syscall.Errno
		switch op := r.IntN(10); {
		case step < 3 || op == 0: // mount
			s := r.IntN(len(roots))
			mt := modelMount{storage: s, ro: r.IntN(3) == 0}
			// The main path is one that nobody else has; the others meet.
			mt.paths = []string{fmt.Sprintf("/main%d", step)}
			for range 1 + r.IntN(2) {
				if p := randomPath(2); !contains(mt.paths, p) && !overlapsItself(mt.paths, p) {
					mt.paths = append(mt.paths, p)
				}
			}
			key := fmt.Sprint(s)
			if r.IntN(2) == 0 {
				key = ""
			}
			storage := localStorage(roots[s], local.Options{})
			storage.Key = key
			mt.id = mountAll(t, w.ns, namespace.Item{Paths: mt.paths, Storage: storage, ReadOnly: mt.ro})[0]
			m.mounts = append(m.mounts, mt)
			what = fmt.Sprintf("mount %+v", mt)
		case op == 1 && len(m.mounts) > 1:
			i := r.IntN(len(m.mounts))
			what = fmt.Sprintf("unmount %d", m.mounts[i].id)
			got = w.ns.Unmount(w.ctx, m.mounts[i].id)
			m.mounts = append(m.mounts[:i:i], m.mounts[i+1:]...)
		case op < 7: // make
			p := path.Join(m.somewhere(r), modelNames[r.IntN(len(modelNames))])
			content := fmt.Sprintf("made in step %d", step)
			if r.IntN(2) == 0 {
				content = dirContent
				got = w.mkdir(p)
			} else {
				got = w.create(p, content)
			}
			want = m.makes(p, content)
			what = "make " + p
		default:
			p := m.something(r)
			if p == "/" {
				continue
			}
			dir := r.IntN(2) == 0
			if dir {
				got = w.rmdir(p)
			} else {
				got = w.unlink(p)
			}
			want = m.removes(p, dir)
			what = fmt.Sprintf("remove %s, as a directory: %v", p, dir)
		}
		if vfs.ErrnoOf(got) != want {
			t.Fatalf("step %d: %s: %v, want %v", step, what, got, want)
		}
		if err := compare(w, m, "/"); err != nil {
			t.Fatalf("step %d: after %s: %v", step, what, err)
		}
	}
}

func contains(list []string, p string) bool {
	for _, x := range list {
		if x == p {
			return true
		}
	}
	return false
}

// overlapsItself: a storage below itself would give two files one conflict name.
func overlapsItself(paths []string, p string) bool {
	for _, x := range paths {
		if _, ok := below(p, x); ok {
			return true
		}
		if _, ok := below(x, p); ok {
			return true
		}
	}
	return false
}

// somewhere chooses a directory, something any entry.
func (m *model) somewhere(r *rand.Rand) string {
	p := "/"
	for {
		var dirs []string
		for name, e := range m.entries(p) {
			if e.file == nil {
				dirs = append(dirs, name)
			}
		}
		if len(dirs) == 0 || r.IntN(3) == 0 {
			return p
		}
		sort.Strings(dirs)
		p = path.Join(p, dirs[r.IntN(len(dirs))])
	}
}

func (m *model) something(r *rand.Rand) string {
	p := m.somewhere(r)
	var names []string
	for name := range m.entries(p) {
		names = append(names, name)
	}
	if len(names) == 0 {
		return p
	}
	sort.Strings(names)
	return path.Join(p, names[r.IntN(len(names))])
}

// compare walks the whole namespace.
func compare(w *world, m *model, p string) error {
	want := m.entries(p)
	got, err := w.list(p)
	if err != nil {
		return fmt.Errorf("list %s: %w", p, err)
	}
	var names []string
	for n := range want {
		names = append(names, n)
	}
	sort.Strings(names)
	if strings.Join(got, " ") != strings.Join(names, " ") {
		return fmt.Errorf("%s lists %q, want %q", p, got, names)
	}
	for _, n := range names {
		e, full := want[n], path.Join(p, n)
		a, err := w.walk(full)
		if err != nil {
			return fmt.Errorf("lookup %s: %w", full, err)
		}
		if e.file != nil {
			if content, err := w.read(full); err != nil || content != e.file.content {
				return fmt.Errorf("%s is %q, %v; want %q", full, content, err, e.file.content)
			}
			continue
		}
		if !a.IsDir() {
			return fmt.Errorf("%s has mode %o, want a directory", full, a.Mode)
		}
		if writable := e.writer() != nil && !e.writer().m.ro; writable != (a.Mode&0o200 != 0) {
			return fmt.Errorf("mode of %s is %o; that it takes new files is %v", full, a.Mode, writable)
		}
		if err := compare(w, m, full); err != nil {
			return err
		}
	}
	return nil
}
