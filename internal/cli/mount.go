package cli

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
)

func (a *app) mountCommand() *cobra.Command {
	var foreground, printSpec bool
	var words optionWords
	var passphrase passphraseFlags
	var image imageFlags
	cmd := &cobra.Command{
		Use:     "mount SOURCE [MOUNTPOINT]",
		Short:   "Mount a volume, a bucket, an image or a local directory",
		GroupID: "mounts",
		Long: `Mount SOURCE at the directory MOUNTPOINT.

SOURCE is the name of a volume (see "massif volume list"), HOST/VOLUME for a shared
volume of the admin server HOST (see "massif creds init"), a bucket whose objects are
shown as files (s3://BUCKET/PREFIX, az://CONTAINER/PREFIX?account=NAME, adls://…,
gs://…; parameters such as ?endpoint=URL follow), a URL such as file:///dir (the
directory, passed through), an image (a file that ends in .fl or .flist, see
"massif image"), or a spec file: a YAML or JSON description of the tree and its options,
which may also name the mount point.

An image or a local directory can get a writable layer on top: --writable for one
that ends with the mount, --layer NAME for one that stays, --size for its limit.

The mount is served by a process in the background. The command returns when
the mount answers; otherwise it prints that process's error. The process ends
when the mount is unmounted, and on SIGTERM, SIGINT or SIGQUIT it unmounts by
itself; a second signal takes the mount away from programs that still use it.

Every option can be given as a flag, as a word behind -o, or as a key of the
spec's "mount" section. In fstab, write the type massif (see
"massif install-helpers"):

  photos  /mnt/photos  massif  noatime,_netdev  0 0`,
		Example: `  massif mount photos /mnt/photos
  massif mount photos /mnt/photos -o ro,noatime
  massif mount photos /mnt/photos --memory-limit 1GiB --metrics-addr 127.0.0.1:9567
  massif mount 's3://bucket/photos?region=eu-central-1' /mnt/photos --cache-size 50GiB
  massif mount file:///srv/data /mnt/data --foreground
  massif mount admin.example.com/team /mnt/team
  massif mount debian.fl /mnt/debian --layer web1 --size 2GiB
  massif mount photos.yaml`,
		Args: cmdline.Args(1, "SOURCE", "MOUNTPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := mount.Parse(args[0])
			if err != nil {
				return err
			}
			if err := words.apply(&spec.Mount); err != nil {
				return err
			}
			if err := image.apply(spec); err != nil {
				return err
			}
			if printSpec {
				return a.printJSON(spec)
			}
			point := spec.Point
			if len(args) > 1 {
				point = args[1]
			}
			if point == "" {
				return usageError("%s: MOUNTPOINT is missing; usage: %s", cmd.CommandPath(), cmd.UseLine())
			}
			if err := unlockSpec(cmd.Context(), spec, &passphrase); err != nil {
				return err
			}
			if foreground {
				return serveForeground(cmd.Context(), spec, point)
			}
			return mount.Start(cmd.Context(), spec, point)
		},
		ValidArgsFunction: completeSource,
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVarP(&foreground, "foreground", "f", false, "stay in the foreground, log to stderr")
	flags.BoolVar(&printSpec, "print-spec", false, "print the spec that would be mounted, and stop")
	flags.VarP(wordList{&words}, "option", "o", "mount `OPTIONS` as mount(8) has them: name or name=value, divided by commas")
	passphrase.addFD(flags)
	image.add(flags)
	for _, opt := range mount.OptionTable() {
		f := flags.VarPF(&optionFlag{opt, &words}, opt.Name, "", flagHelp(opt))
		if opt.Arg == "" {
			f.NoOptDefVal = "true"
		}
	}
	return cmd
}

// serveForeground serves a mount in this process.
func serveForeground(ctx context.Context, spec *mount.Spec, point string) error {
	log, err := mount.OpenLog(&spec.Mount, spec.Mount.LogFile)
	if err != nil {
		return err
	}
	defer log.Close()
	slog.SetDefault(log.Logger)
	// Signals are Serve's business: ctx would be done by the first one already.
	return mount.Serve(context.WithoutCancel(ctx), spec, point, mount.ServeOptions{Log: log})
}

// optionWords collects options in the order of the command line.
type optionWords []string

func (w optionWords) apply(o *mount.Options) error {
	for _, word := range w {
		if err := o.ParseOptions(word); err != nil {
			return err
		}
	}
	return nil
}

// wordList is the flag -o.
type wordList struct{ words *optionWords }

func (w wordList) String() string     { return "" }
func (w wordList) Type() string       { return "OPTIONS" }
func (w wordList) Set(s string) error { *w.words = append(*w.words, s); return nil }

// optionFlag is a mount option as a flag.
type optionFlag struct {
	opt   mount.Option
	words *optionWords
}

func (f *optionFlag) String() string { return "" }

func (f *optionFlag) Type() string {
	if f.opt.Arg == "" {
		return "bool"
	}
	return f.opt.Arg
}

func (f *optionFlag) Set(s string) error {
	var scratch mount.Options
	if err := f.opt.Set(&scratch, s); err != nil {
		return err
	}
	*f.words = append(*f.words, f.opt.Name+"="+strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s))
	return nil
}

var _ pflag.Value = (*optionFlag)(nil)

func flagHelp(opt mount.Option) string {
	if opt.Inverse != "" {
		return opt.Help + " [-o " + opt.Inverse + " takes it back]"
	}
	return opt.Help
}

// completeSource offers the volumes.
func completeSource(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return volumeNames(), cobra.ShellCompDirectiveDefault
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func volumeNames() []string {
	g, err := mount.OpenRegistry()
	if err != nil {
		return nil
	}
	var names []string
	records, _ := g.List() // damaged ones are not offered
	for _, r := range records {
		names = append(names, r.Name)
	}
	return names
}

// mountHelper is mount.massif(8): mount.massif SOURCE DIR [-sfnvN] [-o OPTIONS] [-t TYPE].
func mountHelper(ctx context.Context, args []string, s streams) error {
	flags := pflag.NewFlagSet("mount.massif", pflag.ContinueOnError)
	flags.SetOutput(s.err)
	sloppy := flags.BoolP("sloppy", "s", false, "pass over unknown options")
	fake := flags.BoolP("fake", "f", false, "check everything, do not mount")
	flags.BoolP("no-mtab", "n", false, "accepted for mount(8)")
	verbose := flags.BoolP("verbose", "v", false, "say what is done")
	flags.StringP("type", "t", "", "accepted for mount(8)")
	flags.StringP("namespace", "N", "", "accepted for mount(8)")
	options := flags.StringArrayP("options", "o", nil, "mount options")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return &mount.UsageError{Err: err}
	}
	if flags.NArg() != 2 {
		return usageError("usage: mount.massif SOURCE DIR [-sfnv] [-o OPTIONS]")
	}
	spec, err := mount.Parse(flags.Arg(0))
	if err != nil {
		return err
	}
	for _, list := range *options {
		if *sloppy {
			list = mount.KnownOptions(list)
		}
		if err := spec.Mount.ParseOptions(list); err != nil {
			return err
		}
	}
	if *verbose {
		a := &app{streams: s}
		if err := a.printJSON(spec); err != nil {
			return err
		}
	}
	if err := spec.Validate(); err != nil || *fake {
		return err
	}
	if err := unlockSpec(ctx, spec, &passphraseFlags{fd: -1}); err != nil {
		return err
	}
	return mount.Start(ctx, spec, flags.Arg(1))
}
