package mount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/massif-fs/massif/door/control"
)

// volumeOp is an operation on an open volume, run in the process that has it open:
// that of its mount (by the control socket command "volume-NAME"), its metadata server
// (ServedVolume), or the one that opens it for the purpose. decode reads the arguments strictly, progress tells
// the caller how far it is; the result is written as JSON.
type volumeOp func(ctx context.Context, v *Volume, decode func(any) error, progress func(any)) (any, error)

// volumeOps are the operations by name.
var volumeOps = map[string]volumeOp{}

// registerOp makes an operation with typed arguments known.
func registerOp[Args any](name string, run func(ctx context.Context, v *Volume, args Args, progress func(any)) (any, error)) {
	if volumeOps[name] != nil {
		panic("mount: operation " + name + " is registered twice")
	}
	volumeOps[name] = func(ctx context.Context, v *Volume, decode func(any) error, progress func(any)) (any, error) {
		var args Args
		if err := decode(&args); err != nil {
			return nil, err
		}
		return run(ctx, v, args, progress)
	}
}

// none is the argument type of operations without arguments.
type none struct{}

// Do runs an operation on a volume: inside the process that has it mounted, if one
// of this user has, else in this process, which opens the volume for it. args and
// result are values with JSON tags; progress, if not nil, gets the operation's
// progress messages. A shared volume is named HOST/VOLUME as for a mount: its metadata
// server does the work, and tells no progress but problems.
func (g *Registry) Do(ctx context.Context, name, op string, args, result any, progress func(json.RawMessage)) error {
	if tree, ok := sharedVolumeOf(name); ok {
		return tree.do(ctx, name, op, args, result, progress)
	}
	record, err := g.Get(name)
	if err != nil {
		return err
	}
	if running := findVolume(record.UUID); running != nil {
		return doThere(ctx, *running, op, args, result, progress)
	}
	passphrase, err := g.passphraseFor(record, op, args)
	if err != nil {
		return err
	}
	defer passphrase.Wipe()
	v, err := g.OpenVolume(ctx, name, OpenOptions{Tree: true, Passphrase: passphrase, Locked: true, Log: quietLogger()})
	var inUse *InUseError
	if errors.As(err, &inUse) && inUse.Running != nil { // mounted meanwhile
		return doThere(ctx, *inUse.Running, op, args, result, progress)
	}
	if err != nil {
		return err
	}
	err = doHere(ctx, v, op, args, result, progress)
	return errors.Join(err, v.FS.Close(), v.Close())
}

func doThere(ctx context.Context, running Running, op string, args, result any, progress func(json.RawMessage)) error {
	c, err := connect(ctx, running)
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.Call(ctx, "volume-"+op, args, result, progress)
	var refused *control.Error
	if errors.As(err, &refused) && refused.Class == control.ClassUnknown {
		return fmt.Errorf("the mount at %s runs another version of massif, which cannot do this; mount it anew", running.Point)
	}
	return err
}

func doHere(ctx context.Context, v *Volume, op string, args, result any, progress func(json.RawMessage)) error {
	run := volumeOps[op]
	if run == nil {
		return fmt.Errorf("there is no operation %q", op)
	}
	if args == nil {
		args = none{}
	}
	text, err := json.Marshal(args)
	if err != nil {
		return err
	}
	tell := func(v any) {
		if progress == nil {
			return
		}
		if text, err := json.Marshal(v); err == nil {
			progress(text)
		}
	}
	out, err := run(ctx, v, decodeArgs(text), tell)
	if err != nil || result == nil {
		return err
	}
	if text, err = json.Marshal(out); err != nil {
		return err
	}
	return json.Unmarshal(text, result)
}

// quietLogger lets only what a person must know of an offline operation through.
func quietLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(logOutput, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
