package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/door/control"
	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/mount/nscommands"
)

func (a *app) namespaceCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use: "namespace", Short: "Compose a mount of many storages", GroupID: "mounts",
		Long: `A namespace is a mount whose content is composed while it is there: storages are added at
one or several of its paths, overlap and merge, and are removed. doc/namespace.md has the rules.`,
	}, a.namespaceStart(), a.namespaceList(), a.namespaceAdd(), a.namespaceRemove(), a.namespaceInfo(), a.namespaceWatch())
}

func (a *app) namespaceStart() *cobra.Command {
	var foreground bool
	var words optionWords
	tree := &mount.NamespaceTree{}
	cmd := &cobra.Command{
		Use: "start MOUNTPOINT [FILE]", Short: "Mount a namespace",
		Long: `Mount a namespace, empty or with the storages that the spec FILE lists:

  tree:
    kind: namespace
    storages:
      - paths: [/photos, /by-date/2026]
        storage: {type: local, location: /srv/photos}
        read-only: true`,
		Example: `  massif namespace start /mnt/all
  massif namespace start /mnt/all all.yaml --socket /run/user/1000/all.sock`,
		Args: cmdline.Args(1, "MOUNTPOINT", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := &mount.Spec{Tree: mount.Tree{Kind: "namespace", Config: tree}, Source: "namespace"}
			if len(args) > 1 {
				file, err := mount.ReadSpec(args[1])
				if err != nil {
					return err
				}
				listed, ok := file.Tree.Config.(*mount.NamespaceTree)
				if !ok {
					return usageError("spec %s describes a tree of kind %q, not a namespace", args[1], file.Tree.Kind)
				}
				if tree.Socket == "" {
					tree.Socket = listed.Socket
				}
				socket := tree.Socket
				*tree = *listed
				tree.Socket = socket
				file.Tree.Config = tree
				spec = file
			}
			if tree.Socket != "" {
				var err error
				if tree.Socket, err = filepath.Abs(tree.Socket); err != nil {
					return err
				}
			}
			if err := words.apply(&spec.Mount); err != nil {
				return err
			}
			if err := spec.Validate(); err != nil {
				return err
			}
			if foreground {
				return serveForeground(cmd.Context(), spec, args[0])
			}
			return mount.Start(cmd.Context(), spec, args[0])
		},
	}
	cmd.Flags().BoolVarP(&foreground, "foreground", "f", false, "stay in the foreground, log to stderr")
	cmd.Flags().StringVar(&tree.Socket, "socket", "", "reach the control socket at `PATH`, too")
	cmd.Flags().VarP(wordList{&words}, "option", "o", "mount `OPTIONS`, as of massif mount")
	return cmd
}

// storageRow is a storage as the command info describes it.
type storageRow struct {
	ID    int             `json:"id"`
	Paths []string        `json:"paths"`
	Type  string          `json:"type"`
	Extra json.RawMessage `json:"extra,omitempty"`
	Error string          `json:"error,omitempty"`
}

// openNamespace connects with a mount and asks what is mounted in it. The caller closes the
// client.
func openNamespace(ctx context.Context, mountpoint string) (*mount.Client, []storageRow, error) {
	c, err := mount.Connect(ctx, mountpoint)
	if err != nil {
		return nil, nil, err
	}
	rows, err := storagesOf(ctx, c)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, rows, nil
}

// storagesOf asks a namespace what is mounted in it.
func storagesOf(ctx context.Context, c *mount.Client) ([]storageRow, error) {
	var info map[string]storageRow
	if err := c.Call(ctx, "info", nil, &info, nil); err != nil {
		return nil, notNamespace(err)
	}
	rows := []storageRow{}
	for id, r := range info {
		var err error
		if r.ID, err = strconv.Atoi(id); err != nil {
			return nil, fmt.Errorf("the mount tells of a storage %q", id)
		}
		rows = append(rows, r)
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].ID < rows[j].ID })
	return rows, nil
}

// notNamespace says so if a mount does not know a command of namespaces.
func notNamespace(err error) error {
	var refused *control.Error
	if errors.As(err, &refused) && refused.Class == control.ClassUnknown {
		return errors.New("the mount is not a namespace")
	}
	return err
}

func (a *app) namespaceList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list MOUNTPOINT", Short: "List the storages of a namespace",
		Example: "  massif namespace list /mnt/all",
		Args:    exactArgs("MOUNTPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rows, err := openNamespace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			if a.json {
				return a.printJSON(rows)
			}
			t := newTable(a.out, "ID", "TYPE", "PATHS", "ERROR")
			for _, r := range rows {
				t.row(strconv.Itoa(r.ID), r.Type, strings.Join(r.Paths, " "), r.Error)
			}
			return t.flush()
		},
		ValidArgsFunction: completeMounts,
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) namespaceAdd() *cobra.Command {
	var readOnly, replace, lazy bool
	cmd := &cobra.Command{
		Use: "add MOUNTPOINT STORAGE PATH...", Short: "Mount a storage in a namespace",
		Long: `Mount STORAGE at one or several paths of a namespace. STORAGE is a directory (an absolute
path), the name of a volume, or a JSON object of the storage's parameters with its "type".
The storage is opened at once, and not mounted if that fails, unless --lazy is given.`,
		Example: `  massif namespace add /mnt/all /srv/photos /photos /by-date/2026
  massif namespace add /mnt/all archive /archive --read-only
  massif namespace add /mnt/all '{"type": "static", "content": {"README": "hello"}}' /hello`,
		Args: minArgs(3, "STORAGE and PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			params, err := storageParams(args[1])
			if err != nil {
				return err
			}
			c, err := mount.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			item := nscommands.Item{Paths: args[2:], Storage: params, ReadOnly: readOnly, Remount: replace}
			request := map[string]any{"items": []nscommands.Item{item}, "lazy": lazy}
			return plainRefusal(notNamespace(c.Call(cmd.Context(), "mount", request, nil, nil)))
		},
		ValidArgsFunction: completeMounts,
	}
	cmd.Flags().BoolVar(&readOnly, "read-only", false, "refuse changes")
	cmd.Flags().BoolVar(&replace, "replace", false, "replace what is mounted at the first path")
	cmd.Flags().BoolVar(&lazy, "lazy", false, "open the storage when it is first used")
	return cmd
}

// plainRefusal takes the form that clients of Wildland know from the error of a single item.
func plainRefusal(err error) error {
	var refused *control.Error
	if !errors.As(err, &refused) {
		return err
	}
	text, ok := strings.CutPrefix(refused.Desc, "["+control.ClassWildland+"(")
	if !ok || !strings.HasSuffix(text, ")]") || len(text) < 4 {
		return err
	}
	text = text[1 : len(text)-3] // within the quotes
	return errors.New(strings.NewReplacer(`\'`, `'`, `\\`, `\`).Replace(text))
}

// storageParams are the parameters of what a user names as a storage.
func storageParams(storage string) (json.RawMessage, error) {
	switch {
	case strings.HasPrefix(storage, "{"):
		if !json.Valid([]byte(storage)) {
			return nil, usageError("storage %s is not well-formed JSON", storage)
		}
		return json.RawMessage(storage), nil
	case strings.HasPrefix(storage, "/"):
		return json.Marshal(map[string]string{"type": "local", "location": storage})
	case strings.ContainsAny(storage, "/:{\""):
		return nil, usageError("storage %q: give an absolute path, a volume's name or a JSON object", storage)
	}
	return json.Marshal(map[string]string{"type": "volume", "name": storage})
}

func (a *app) namespaceRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove MOUNTPOINT ID|PATH...", Short: "Unmount storages of a namespace",
		Long: `Unmount storages, by id or by main path (the first one each was mounted at). The command returns
when what was written to them is stored.`,
		Example: `  massif namespace remove /mnt/all 3
  massif namespace remove /mnt/all /photos`,
		Args: minArgs(2, "ID or PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rows, err := openNamespace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			var ids []int
			for _, which := range args[1:] {
				id, err := findStorage(rows, which)
				if err != nil {
					return err
				}
				ids = append(ids, id)
			}
			for _, id := range ids {
				if err := c.Call(cmd.Context(), "unmount", map[string]int{"storage-id": id}, nil, nil); err != nil {
					return err
				}
			}
			return nil
		},
		ValidArgsFunction: completeStorages,
	}
}

// findStorage finds a storage by id or main path.
func findStorage(rows []storageRow, which string) (int, error) {
	for _, r := range rows {
		if strconv.Itoa(r.ID) == which || r.Paths[0] == which {
			return r.ID, nil
		}
	}
	return 0, fmt.Errorf("no storage %s; \"massif namespace list\" shows those that are mounted", which)
}

// completeStorages offers mounts, then the main paths of the one that was chosen.
func completeStorages(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return completeMounts(cmd, args, word)
	}
	c, rows, err := openNamespace(context.Background(), args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	var paths []string
	for _, r := range rows {
		paths = append(paths, r.Paths[0])
	}
	return paths, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) namespaceInfo() *cobra.Command {
	cmd := &cobra.Command{
		Use: "info MOUNTPOINT PATH", Short: "Tell which storages a path is of",
		Long: `Tell which storages have the directory at PATH of a namespace or are mounted there or below, or
which one has the file. PATH begins at the mount point.`,
		Example: "  massif namespace info /mnt/all /photos/a.jpg",
		Args:    exactArgs("MOUNTPOINT", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rows, err := openNamespace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			var ids []int
			if err := c.Call(cmd.Context(), "storages-of", map[string]string{"path": args[1]}, &ids, nil); err != nil {
				return notNamespace(err)
			}
			of := []storageRow{}
			for _, r := range rows {
				for _, id := range ids {
					if r.ID == id {
						of = append(of, r)
						break
					}
				}
			}
			if a.json {
				return a.printJSON(of)
			}
			if len(of) == 0 {
				return fmt.Errorf("no storage has %s", args[1])
			}
			t := newTable(a.out, "ID", "TYPE", "PATHS")
			for _, r := range of {
				t.row(strconv.Itoa(r.ID), r.Type, strings.Join(r.Paths, " "))
			}
			return t.flush()
		},
		ValidArgsFunction: completeMounts,
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) namespaceWatch() *cobra.Command {
	var ignoreOwn bool
	cmd := &cobra.Command{
		Use: "watch MOUNTPOINT ID|PATH [PATTERN]", Short: "Print changes in a storage of a namespace",
		Long: `Print a line for each file or directory that is created, deleted or modified in a storage and
whose path within it ends as PATTERN says (default: all), until the command is interrupted.`,
		Example: `  massif namespace watch /mnt/all /photos '*.jpg'`,
		Args:    cmdline.Args(2, "MOUNTPOINT", "ID|PATH", "PATTERN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rows, err := openNamespace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			id, err := findStorage(rows, args[1])
			if err != nil {
				return err
			}
			pattern := "*"
			if len(args) > 2 {
				pattern = args[2]
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			var failed error
			c.OnEvents = func(events []control.Event) {
				for _, e := range events {
					if _, err := fmt.Fprintf(a.out, "%s %s\n", e.Type, e.Path); err != nil { // such as the end of a pipe
						failed = err
						cancel()
					}
				}
			}
			request := map[string]any{"storage-id": id, "pattern": pattern, "ignore-own": ignoreOwn}
			if err := c.Call(ctx, "add-watch", request, nil, nil); err != nil {
				return err
			}
			if err := c.Listen(ctx); failed == nil && cmd.Context().Err() == nil {
				return err
			}
			return failed
		},
		ValidArgsFunction: completeStorages,
	}
	cmd.Flags().BoolVar(&ignoreOwn, "ignore-own", false, "leave out what is done through the mount")
	return cmd
}

func (a *app) ctlCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ctl MOUNTPOINT REQUEST", Short: "Send a request to the control socket of a mount", GroupID: "mounts",
		Long: `Send REQUEST, a JSON object {"cmd": NAME, "args": {…}}, to the control socket of a mount and
print the result. REQUEST may be the name alone of a command without arguments.`,
		Example: `  massif ctl /mnt/all paths
  massif ctl /mnt/all '{"cmd": "unmount", "args": {"storage-id": 3}}'`,
		Args: exactArgs("MOUNTPOINT", "REQUEST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var request struct {
				Cmd  string          `json:"cmd"`
				Args json.RawMessage `json:"args"`
			}
			request.Cmd = args[1]
			if strings.HasPrefix(strings.TrimSpace(args[1]), "{") {
				request.Cmd = ""
				if err := json.Unmarshal([]byte(args[1]), &request); err != nil {
					return usageError("the request is not well-formed: %s", err)
				}
			}
			if request.Cmd == "" {
				return usageError("the request names no command (\"cmd\")")
			}
			c, err := mount.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			var params any
			if request.Args != nil {
				params = request.Args
			}
			var result json.RawMessage
			if err := c.Call(cmd.Context(), request.Cmd, params, &result, nil); err != nil {
				return err
			}
			return a.printJSON(result)
		},
		ValidArgsFunction: completeMounts,
	}
}
