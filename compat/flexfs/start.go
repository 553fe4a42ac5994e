package flexfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/internal/terminal"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/mount/creds"
	"github.com/massif-fs/massif/seal"
)

// newRequest is a request with the defaults of mount.flexfs.
func newRequest() *request {
	return &request{options: mount.Options{EmptyPoint: true}}
}

// flagValue is a start flag on a command line.
type flagValue struct {
	f *startFlag
	r *request
}

func (v *flagValue) String() string     { return "" }
func (v *flagValue) Set(s string) error { return v.f.applyOnce(v.r, s) }
func (v *flagValue) Type() string {
	if v.f.arg == "" {
		return "bool"
	}
	return v.f.arg
}

// applyOnce is set without the flag's name in the error: the flag library adds it.
func (f *startFlag) applyOnce(r *request, value string) error {
	if f.idle != "" && value != "false" {
		r.warn(f.name, f.idle)
	}
	return f.apply(r, value)
}

func (r *request) addFlags(flags *pflag.FlagSet) {
	flags.SortFlags = false
	for i := range startFlags {
		f := &startFlags[i]
		flag := flags.VarPF(&flagValue{f, r}, f.name, f.short, f.help)
		if f.arg == "" {
			flag.NoOptDefVal = "true"
		}
		flag.Hidden = f.hidden
	}
}

func (p *Personality) startCommand() *cobra.Command {
	r := newRequest()
	cmd := &cobra.Command{
		Use: "start NAME DIR", Short: "Mount a volume", Args: cmdline.Args(2, "NAME", "DIR"),
		Long: `Mount the volume NAME, or the one of which NAME is an alias, at the directory DIR.

The mount is served in the background; the command returns when it answers. With
--foreground, and under systemd (NOTIFY_SOCKET), it stays. SIGTERM, SIGINT and
SIGQUIT unmount.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.name, r.point = args[0], args[1]
			return p.start(cmd.Context(), r)
		},
	}
	r.addFlags(cmd.Flags())
	return cmd
}

// start mounts what is asked for.
func (p *Personality) start(ctx context.Context, r *request) error {
	spec, err := r.spec()
	if err != nil {
		return &mount.UsageError{Err: err}
	}
	for _, w := range r.warnings {
		fmt.Fprintln(p.Err, "mount.flexfs: "+w)
	}
	if err := spec.Validate(); err != nil {
		return err
	}
	file := spec.Tree.Config.(*mount.SharedTree).Creds
	if _, err := creds.Read(file); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("volume %s: there are no credentials at %s; make them with: mount.flexfs init creds --adminAddr HOST:PORT", r.name, file)
	}
	if err := p.unlock(spec); err != nil {
		return err
	}
	if r.foreground || os.Getenv("NOTIFY_SOCKET") != "" {
		return p.Serve(ctx, spec, r.point)
	}
	return mount.Start(ctx, spec, r.point)
}

// unlock asks for the secret of an encrypted volume whose credentials have none.
func (p *Personality) unlock(spec *mount.Spec) error {
	registry, err := mount.OpenRegistry()
	if err != nil {
		return err
	}
	name, needs := spec.NeedsPassphrase(registry)
	if !needs {
		return nil
	}
	secret, err := terminal.Secret("Secret of the volume " + name + ": ")
	if errors.Is(err, terminal.ErrNone) {
		return fmt.Errorf("the volume %s is encrypted, its credentials have no secret, and there is no terminal to ask at", name)
	}
	spec.Passphrase = seal.Passphrase(secret)
	return err
}

// isHelperCall tells whether the arguments are those with which mount(8) calls a
// helper: "NAME DIR" and then flags, with -o among them.
func isHelperCall(args []string) bool {
	if len(args) < 3 || strings.HasPrefix(args[0], "-") || strings.HasPrefix(args[1], "-") {
		return false
	}
	for _, a := range args[2:] {
		if a == "-o" {
			return true
		}
	}
	return false
}

// helper is mount.flexfs NAME DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE].
func (p *Personality) helper(ctx context.Context, args []string) error {
	flags := pflag.NewFlagSet("mount.flexfs", pflag.ContinueOnError)
	flags.SetOutput(p.Err)
	sloppy := flags.BoolP("sloppy", "s", false, "pass over unknown options")
	fake := flags.BoolP("fake", "f", false, "check everything, do not mount")
	flags.BoolP("no-mtab", "n", false, "accepted for mount(8)")
	flags.BoolP("verbose", "v", false, "accepted for mount(8)")
	flags.StringP("type", "t", "", "accepted for mount(8)")
	flags.StringP("namespace", "N", "", "accepted for mount(8)")
	lists := flags.StringArrayP("options", "o", nil, "mount options")
	if err := flags.Parse(args); err != nil {
		return &mount.UsageError{Err: err}
	}
	if flags.NArg() != 2 {
		return usageError("usage: mount.flexfs NAME DIR [-sfnv] [-o OPTIONS]")
	}
	r := newRequest()
	r.name, r.point = flags.Arg(0), flags.Arg(1)
	for _, list := range *lists {
		if err := r.parseOptions(list, *sloppy); err != nil {
			return err
		}
	}
	if *fake {
		spec, err := r.spec()
		if err != nil {
			return &mount.UsageError{Err: err}
		}
		return spec.Validate()
	}
	return p.start(ctx, r)
}

// parseOptions applies options as they stand in fstab: flags of start without their
// dashes, and those that mount(8) and Massif know.
func (r *request) parseOptions(list string, sloppy bool) error {
	for _, one := range mount.SplitOptions(list) {
		if one == "" {
			continue
		}
		name, value, hasValue := strings.Cut(one, "=")
		f := findFlag(name)
		switch {
		case f == nil:
			escaped := strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(one)
			if sloppy {
				escaped = mount.KnownOptions(escaped)
			}
			if err := r.options.ParseOptions(escaped); err != nil {
				return err
			}
			continue
		case f.arg != "" && !hasValue:
			return usageError("option %q needs a value: %s=%s", name, name, f.arg)
		case !hasValue:
			value = "true"
		}
		if err := r.set(f, value); err != nil {
			return &mount.UsageError{Err: err}
		}
	}
	return nil
}
