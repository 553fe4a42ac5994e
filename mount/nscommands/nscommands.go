// Package nscommands are the commands of a namespace's control socket, in the form that
// Wildland's FUSE driver gave them: mount, unmount, paths, info, status, clear-cache,
// fileinfo, dirinfo, add-watch, add-subcontainer-watch, test and, if it is allowed, breakpoint; and two of
// our own, remove-watch and storages-of. [Schema] publishes what arguments they take.
package nscommands

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/massif-fs/massif/door/control"
	"github.com/massif-fs/massif/internal/pytext"
	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
)

// Schema is an object of the JSON schemas of all commands' arguments, by name.
//
//go:embed schema.json
var Schema []byte

// Options are what the driver was started with.
type Options struct {
	DefaultUser string
	// UpperEvents has the types of events written in upper case.
	UpperEvents bool
	// Breakpoint allows that command.
	Breakpoint bool
	// Env is what kinds of storages are given.
	Env *kinds.Env
	Log *slog.Logger
}

// Commands carry out the commands on a namespace.
type Commands struct {
	ns   *namespace.FS
	opts Options

	mu      sync.Mutex
	lastID  int
	watches map[*control.Conn]map[int]func() // what ends them, by id
}

// New makes the commands of a namespace.
func New(ns *namespace.FS, o Options) *Commands {
	return &Commands{ns: ns, opts: o, watches: map[*control.Conn]map[int]func(){}}
}

// Handlers are the commands by name, their arguments checked by the schema.
func (c *Commands) Handlers() map[string]control.Handler {
	schemas, err := control.ParseSchemas(Schema)
	if err != nil {
		panic("nscommands: " + err.Error()) // it is part of the program
	}
	handlers := map[string]control.Handler{
		"mount": c.mount, "unmount": c.unmount, "paths": c.paths, "info": c.info, "status": c.status, "clear-cache": c.clearCache,
		"fileinfo": c.fileInfo, "dirinfo": c.dirInfo, "test": c.test, "storages-of": c.storagesOf,
		"add-watch": c.addWatch, "add-subcontainer-watch": c.addSubcontainerWatch, "remove-watch": c.removeWatch,
	}
	if c.opts.Breakpoint {
		handlers["breakpoint"] = c.breakpoint
	}
	for name, h := range handlers {
		handlers[name] = control.Validated(schemas[name], h)
	}
	return handlers
}

func fail(class, format string, args ...any) error {
	return &control.Error{Class: class, Desc: fmt.Sprintf(format, args...)}
}

// number is an id as JSON has it: 4, or 4.0.
type number int

func (n *number) UnmarshalJSON(p []byte) error {
	f, err := strconv.ParseFloat(string(p), 64)
	if err != nil || f != float64(int(f)) {
		*n = -1 // no storage has it
		return nil
	}
	*n = number(f)
	return nil
}

// Item is an item of the command mount.
type Item struct {
	Paths    []string        `json:"paths"`
	Storage  json.RawMessage `json:"storage"`
	ReadOnly bool            `json:"read-only,omitempty"`
	Extra    json.RawMessage `json:"extra,omitempty"`
	Remount  bool            `json:"remount,omitempty"`
}

// storageInfo is what is remembered of a mounted storage.
type storageInfo struct {
	made  *kinds.Made
	extra json.RawMessage
	raw   *kinds.Params
}

func (c *Commands) mount(ctx context.Context, call *control.Call) (any, error) {
	args := struct {
		Items []Item `json:"items"`
		Lazy  *bool  `json:"lazy"`
	}{}
	if err := call.Decode(&args); err != nil {
		return nil, err
	}
	_, errs := c.Mount(ctx, args.Items, args.Lazy == nil || *args.Lazy)
	return nil, joined(errs)
}

// Mount mounts items, all that can be, and returns the errors of the others.
func (c *Commands) Mount(ctx context.Context, items []Item, lazy bool) (ids []int, errs []error) {
	var good []namespace.Item
	for i := range items {
		item, err := c.prepare(&items[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		good = append(good, item)
	}
	ids, failed := c.ns.Mount(ctx, good, lazy)
	for _, err := range failed {
		c.opts.Log.Warn("mount of a storage", "err", err)
	}
	return ids, append(errs, failed...)
}

func (c *Commands) prepare(in *Item) (item namespace.Item, err error) {
	params, err := kinds.ParseParams(in.Storage)
	if err != nil {
		return item, err
	}
	made, err := kinds.Make(params, c.opts.Env)
	if err != nil {
		return item, err
	}
	extra := in.Extra
	if len(extra) == 0 || string(extra) == "null" {
		extra = json.RawMessage("{}")
	}
	return namespace.Item{
		Paths: in.Paths, Storage: made.Storage, ReadOnly: in.ReadOnly || made.ReadOnly, Remount: in.Remount,
		Info: &storageInfo{made: made, extra: extra, raw: params},
	}, nil
}

// joined makes one error of those of items: a parameter that is missing keeps its class if it
// is the only one.
func joined(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	var key *kinds.KeyError
	if len(errs) == 1 && errors.As(errs[0], &key) {
		return fail(control.ClassKey, "%s", key.Error())
	}
	var texts []string
	for _, err := range errs {
		class := control.ClassWildland
		if errors.As(err, &key) {
			class = control.ClassKey
		}
		texts = append(texts, class+"("+pytext.Quote(err.Error())+")")
	}
	return fail(control.ClassWildland, "[%s]", strings.Join(texts, ", "))
}

func (c *Commands) unmount(ctx context.Context, call *control.Call) (any, error) {
	id, err := storageID(call)
	if err != nil {
		return nil, err
	}
	return nil, wildland(c.ns.Unmount(ctx, id))
}

func (c *Commands) clearCache(ctx context.Context, call *control.Call) (any, error) {
	var args struct {
		ID *number `json:"storage-id"`
	}
	if err := call.Decode(&args); err != nil {
		return nil, err
	}
	id := 0
	if args.ID != nil {
		if id = int(*args.ID); id <= 0 {
			return nil, fail(control.ClassWildland, "storage not found: %d", id)
		}
	}
	return nil, wildland(c.ns.ClearCache(ctx, id))
}

func storageID(call *control.Call) (int, error) {
	var args struct {
		ID number `json:"storage-id"`
	}
	err := call.Decode(&args)
	return int(args.ID), err
}

func wildland(err error) error {
	if err == nil {
		return nil
	}
	return fail(control.ClassWildland, "%s", err.Error())
}

// ordered is a JSON object whose keys stay in their order.
type ordered struct {
	keys   []string
	values map[string]any
}

func (o *ordered) set(key string, value any) {
	if o.values == nil {
		o.values = map[string]any{}
	}
	if _, ok := o.values[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.values[key] = value
}

// MarshalJSON implements json.Marshaler.
func (o *ordered) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, k := range o.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(o.values[k])
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}

func (c *Commands) paths(context.Context, *control.Call) (any, error) {
	out := &ordered{}
	ids := map[string][]int{}
	for _, m := range c.ns.List() {
		for _, p := range m.Paths {
			ids[p] = append(ids[p], m.ID)
			out.set(p, ids[p])
		}
	}
	return out, nil
}

func (c *Commands) info(context.Context, *control.Call) (any, error) {
	type description struct {
		Paths []string        `json:"paths"`
		Type  string          `json:"type"`
		Extra json.RawMessage `json:"extra"`
		Error string          `json:"error,omitempty"`
	}
	out := &ordered{}
	for _, m := range c.ns.List() {
		info := m.Info.(*storageInfo)
		d := description{Paths: m.Paths, Type: info.made.Type, Extra: info.extra}
		if m.Err != nil {
			d.Error = m.Err.Error()
		}
		out.set(strconv.Itoa(m.ID), d)
	}
	return out, nil
}

func (c *Commands) status(context.Context, *control.Call) (any, error) {
	out := &ordered{}
	if c.opts.DefaultUser != "" {
		out.set("default-user", c.opts.DefaultUser)
	}
	return out, nil
}

// storageText is how fileinfo and dirinfo describe a storage.
type storageText struct {
	ContainerPath string `json:"container-path"`
	BackendID     string `json:"backend-id"`
	Owner         string `json:"owner"`
	ReadOnly      bool   `json:"read-only"`
	Hash          string `json:"hash"`
	ID            int    `json:"id"`
}

func describe(m namespace.Mounted) (*storageText, error) {
	made := m.Info.(*storageInfo).made
	for _, missing := range []struct {
		name  string
		value *string
	}{{"container-path", made.ContainerPath}, {"owner", made.Owner}} {
		if missing.value == nil {
			return nil, fail(control.ClassKey, "%s", pytext.Quote(missing.name))
		}
	}
	return &storageText{
		ContainerPath: *made.ContainerPath, BackendID: made.BackendID, Owner: *made.Owner, ReadOnly: m.ReadOnly, Hash: made.Hash, ID: m.ID,
	}, nil
}

func pathArg(call *control.Call) (string, error) {
	var args struct {
		Path *string `json:"path"`
	}
	if err := call.Decode(&args); err != nil {
		return "", err
	}
	if args.Path == nil {
		return "", fail(control.ClassType, "missing argument: 'path'")
	}
	return *args.Path, nil
}

func (c *Commands) fileInfo(ctx context.Context, call *control.Call) (any, error) {
	p, err := pathArg(call)
	if err != nil {
		return nil, err
	}
	info, err := c.ns.FileInfo(ctx, p)
	if err != nil {
		return struct{}{}, ctx.Err()
	}
	m, err := c.ns.Get(info.ID)
	if err != nil {
		return struct{}{}, nil // unmounted just now
	}
	text, err := describe(m)
	if err != nil {
		return nil, err
	}
	out := struct {
		Storage *storageText `json:"storage"`
		Token   *string      `json:"token"`
	}{Storage: text}
	if info.Token != "" {
		out.Token = &info.Token
	}
	return out, nil
}

func (c *Commands) dirInfo(ctx context.Context, call *control.Call) (any, error) {
	p, err := pathArg(call)
	if err != nil {
		return nil, err
	}
	ids, err := c.ns.DirInfo(ctx, p)
	if err != nil {
		return nil, wildland(err)
	}
	type entry struct {
		Storage *storageText `json:"storage"`
	}
	out := []entry{}
	for _, id := range ids {
		m, err := c.ns.Get(id)
		if err != nil {
			continue // unmounted just now
		}
		text, err := describe(m)
		if err != nil {
			return nil, err
		}
		out = append(out, entry{text})
	}
	return out, nil
}

// storagesOf is the command of our own behind "massif namespace info": the ids of the storages that have a
// file or directory or are mounted below it, each once.
func (c *Commands) storagesOf(ctx context.Context, call *control.Call) (any, error) {
	p, err := pathArg(call)
	if err != nil {
		return nil, err
	}
	if info, err := c.ns.FileInfo(ctx, p); err == nil {
		return []int{info.ID}, nil
	}
	ids, err := c.ns.DirInfo(ctx, p)
	if err != nil {
		return nil, wildland(err)
	}
	slices.Sort(ids)
	if ids = slices.Compact(ids); ids == nil {
		ids = []int{}
	}
	return ids, nil
}

func (c *Commands) test(_ context.Context, call *control.Call) (any, error) {
	kwargs := map[string]json.RawMessage{}
	for name, v := range call.Args() {
		kwargs[strings.ReplaceAll(name, "-", "_")] = v
	}
	return map[string]any{"kwargs": kwargs}, nil
}

// breakpoint writes all stacks to the log.
func (c *Commands) breakpoint(context.Context, *control.Call) (any, error) {
	buf := make([]byte, 1<<20)
	c.opts.Log.Info("breakpoint", "stacks", string(buf[:runtime.Stack(buf, true)]))
	return nil, nil
}
