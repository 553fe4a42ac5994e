package nscommands

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/massif-fs/massif/door/control"
	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
)

// maxWatches bounds the watches of a connection.
const maxWatches = 1024

func (c *Commands) addWatch(ctx context.Context, call *control.Call) (any, error) {
	var args struct {
		ID        number `json:"storage-id"`
		Pattern   string `json:"pattern"`
		IgnoreOwn bool   `json:"ignore-own"`
	}
	if err := call.Decode(&args); err != nil {
		return nil, err
	}
	return c.watchStorage(ctx, call.Conn(), int(args.ID), namespace.WatchOptions{Pattern: args.Pattern, IgnoreOwn: args.IgnoreOwn})
}

// watchStorage starts a watch that lives as long as the connection.
func (c *Commands) watchStorage(ctx context.Context, conn *control.Conn, storage int, o namespace.WatchOptions) (any, error) {
	id, err := c.newWatch(conn)
	if err != nil {
		return nil, err
	}
	stop, err := c.ns.WatchStorage(ctx, storage, o, func(events []namespace.Event) {
		out := make([]control.Event, len(events))
		for i, e := range events {
			out[i] = control.Event{Type: c.eventName(e.Type), Path: e.Path, WatchID: id, StorageID: storage}
		}
		conn.Notify(out)
	})
	if errors.Is(err, namespace.ErrUnknown) {
		return nil, fail(control.ClassWildland, "No storage: %d", storage)
	}
	if err != nil {
		return nil, wildland(err)
	}
	c.mu.Lock()
	of := c.watches[conn]
	if of != nil {
		of[id] = stop
	}
	c.mu.Unlock()
	if of == nil { // the connection was closed meanwhile
		stop()
		return nil, control.ErrConnClosed
	}
	return id, nil
}

// newWatch gives a watch its id. The first of a connection has the connection's end seen to.
func (c *Commands) newWatch(conn *control.Conn) (int, error) {
	c.mu.Lock()
	of := c.watches[conn]
	switch {
	case len(of) >= maxWatches:
		c.mu.Unlock()
		return 0, fail(control.ClassWildland, "a connection has %d watches at most", maxWatches)
	case of == nil:
		c.watches[conn] = map[int]func(){}
	}
	c.lastID++
	id := c.lastID
	c.mu.Unlock()
	if of == nil {
		if err := conn.OnClose(func() { c.endAll(conn) }); err != nil {
			c.endAll(conn)
			return 0, err
		}
	}
	return id, nil
}

// endAll ends the watches of a connection.
func (c *Commands) endAll(conn *control.Conn) {
	c.mu.Lock()
	of := c.watches[conn]
	delete(c.watches, conn)
	c.mu.Unlock()
	for _, stop := range of {
		stop()
	}
}

// end ends a watch of a connection; it says whether there was one.
func (c *Commands) end(id int, conn *control.Conn) bool {
	c.mu.Lock()
	stop := c.watches[conn][id]
	delete(c.watches[conn], id)
	c.mu.Unlock()
	if stop == nil {
		return false
	}
	stop()
	return true
}

func (c *Commands) eventName(t namespace.EventType) string {
	if c.opts.UpperEvents {
		return strings.ToUpper(string(t))
	}
	return string(t)
}

func (c *Commands) removeWatch(_ context.Context, call *control.Call) (any, error) {
	var args struct {
		ID number `json:"watch-id"`
	}
	if err := call.Decode(&args); err != nil {
		return nil, err
	}
	if !c.end(int(args.ID), call.Conn()) {
		return nil, fail(control.ClassWildland, "No watch: %d", int(args.ID))
	}
	return nil, nil
}

// addSubcontainerWatch watches the manifests in a storage that is mounted already, which its
// parameter manifest-pattern finds.
func (c *Commands) addSubcontainerWatch(ctx context.Context, call *control.Call) (any, error) {
	var args struct {
		Params    json.RawMessage `json:"backend-param"`
		IgnoreOwn bool            `json:"ignore-own"`
	}
	if err := call.Decode(&args); err != nil {
		return nil, err
	}
	params, err := kinds.ParseParams(args.Params)
	if err != nil {
		return nil, fail(control.ClassValue, "%s", err.Error())
	}
	hash, err := params.Hash()
	if err != nil {
		return nil, fail(control.ClassValue, "%s", err.Error())
	}
	for _, m := range c.ns.List() {
		info := m.Info.(*storageInfo)
		if info.made.Hash != hash {
			continue
		}
		var pattern struct {
			Type string `json:"type"`
			Path string `json:"path"`
		}
		if _, err := info.raw.Decode("manifest-pattern", &pattern); err != nil || pattern.Type != "glob" {
			return nil, fail(control.ClassValue, "the storage has no manifest-pattern of type glob: it has no subcontainers")
		}
		// "{path}" stands for the path of a container, at any depth.
		glob := strings.TrimPrefix(strings.ReplaceAll(pattern.Path, "{path}", "*"), "/")
		return c.watchStorage(ctx, call.Conn(), m.ID, namespace.WatchOptions{Pattern: glob, IgnoreOwn: args.IgnoreOwn})
	}
	id, err := params.BackendID()
	if err != nil {
		return nil, fail(control.ClassValue, "%s", err.Error())
	}
	return nil, fail(control.ClassValue, "Unknown storage %s", id)
}
