package cloudfuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
)

// mountRequest is what the command line of a mount asks for.
type mountRequest struct {
	configSource
	flags   given
	options []string // lists behind -o
	dryRun  bool

	remountSystem bool
	remountUser   string
}

func (r *mountRequest) addFlags(flags *pflag.FlagSet) {
	r.configSource.addFlags(flags)
	flags.BoolVar(&r.secure, "secure-config", false, "the configuration is encrypted, whatever its name")
	r.flags.addFlags(flags)
	flags.StringArrayVarP(&r.options, "options", "o", nil, "`OPTIONS` of FUSE, and flags as they stand in fstab, divided by commas")
	flags.BoolVar(&r.dryRun, "dry-run", false, "check configuration and credentials, and mount nothing")
	flags.BoolVar(&r.remountSystem, "enable-remount-system", false, "mount again when the machine starts, through a systemd unit")
	flags.StringVar(&r.remountUser, "remount-system-user", "", "`USER` of that unit")
	for _, name := range []string{"enable-remount-user", "passphrase-pipe"} { // of Windows
		flags.Bool(name, false, "for Windows")
		flags.Lookup(name).Hidden = true
	}
}

func (p *Personality) mountCommand() *cobra.Command {
	r := &mountRequest{}
	cmd := &cobra.Command{
		Use: "mount PATH", Aliases: []string{"mnt"}, Short: "Mount a bucket or container as a file system",
		Long: `Mount a bucket or container at the directory PATH. The command returns when the mount
answers; it is served in the background, with --foreground by the command itself.

A value comes from a flag, else from the environment (AZURE_STORAGE_…), else from the
configuration file. A configuration file whose name ends in .aes is encrypted.`,
		Example: `  cloudfuse mount /mnt/photos --config-file=config.yaml
  cloudfuse mount /mnt/photos --config-file=config.aes --read-only
  cloudfuse mount all /mnt/account --config-file=config.yaml
  cloudfuse mount list`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 || args[0] == "":
				return usageError("mount path not provided")
			case len(args) > 1:
				return usageError("mount: too many arguments, beginning with %q; usage: cloudfuse mount PATH [flags]", args[1])
			}
			r.named = cmd.Flags().Changed("config-file")
			return p.mount(cmd.Context(), r, args[0])
		},
	}
	r.addFlags(cmd.Flags())
	all := &mountRequest{}
	allCmd := &cobra.Command{
		Use: "all PATH", Short: "Mount all buckets or containers of an account below a directory",
		Long: `Mount each bucket or container of the account at PATH/NAME: those that
mountall.container-allowlist names, else all but those of container-denylist. Each has a
cache directory of its own.`,
		Example: "  cloudfuse mount all /mnt/account --config-file=config.yaml", Args: cmdline.Args(1, "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			all.named = cmd.Flags().Changed("config-file")
			return p.mountAll(cmd.Context(), all, args[0])
		},
	}
	all.addFlags(allCmd.Flags())
	cmd.AddCommand(allCmd, p.listCommand())
	return cmd
}

// settings reads the configuration and puts environment and flags over it.
func (r *mountRequest) settings() (*settings, error) {
	data, err := r.text()
	var c *config
	switch {
	case errors.Is(err, os.ErrNotExist) && !r.named:
		// Flags and environment may say all there is to say.
	case errors.Is(err, errNoPassphrase):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("failed to initialize new pipeline: config file: %w", err)
	default:
		if c, err = parseConfig(data); err != nil {
			return nil, fmt.Errorf("failed to initialize new pipeline: config file %s: %w", r.path(), err)
		}
	}
	s := newSettings(c, r.path(), os.Getenv)
	if c != nil && !r.sealed() {
		if s.reread, err = filepath.Abs(r.path()); err != nil {
			return nil, err
		}
	}
	if err := applyOptions(s, s.values["libfuse-options"].items, "libfuse-options"); err != nil {
		return nil, err
	}
	r.flags.apply(s)
	for _, words := range r.options {
		if err := applyOptions(s, mount.SplitOptions(words), "-o"); err != nil {
			return nil, err
		}
	}
	if c == nil && s.storage() == "" {
		return nil, fmt.Errorf("failed to initialize new pipeline: there is no configuration file %s, and neither flags nor environment name a storage", r.path())
	}
	return s, nil
}

// forget takes secrets out of the environment, which the mount's process inherits and
// others may look at.
func forget() {
	for _, name := range []string{passphraseEnv, blobfusePassphraseEnv} {
		os.Unsetenv(name)
	}
}

// mount mounts what is asked for.
func (p *Personality) mount(ctx context.Context, r *mountRequest, arg string) error {
	point, err := cleanPoint(arg)
	if err != nil {
		return err
	}
	if !r.dryRun {
		if err := checkPoint(point); err != nil {
			return err
		}
	}
	s, err := r.settings()
	if err != nil {
		return err
	}
	if !r.remountSystem {
		forget()
	}
	if err := s.complete(ctx); err != nil {
		return err
	}
	spec, err := p.prepare(ctx, s, point)
	switch {
	case err != nil || r.dryRun:
		return err
	case r.remountSystem:
		return p.installMount(ctx, r, point)
	case s.toggle("foreground", false) || os.Getenv("NOTIFY_SOCKET") != "":
		if s.toggle("health_monitor.enable-monitoring", false) {
			p.warn("health_monitor.enable-monitoring has no effect in the foreground; start it with: cloudfuse health-monitor --pid=%d", os.Getpid())
		}
		return p.Serve(ctx, spec, point)
	}
	return s.begin(ctx, spec, point)
}

// begin starts a mount in the background, and its monitor if that is asked for.
func (s *settings) begin(ctx context.Context, spec *mount.Spec, point string) error {
	if err := mount.Start(ctx, spec, point); err != nil {
		return err
	}
	return s.monitorMount(point)
}

// prepare makes the spec of a mount and finds out whether it would work.
func (p *Personality) prepare(ctx context.Context, s *settings, point string) (*mount.Spec, error) {
	spec, err := s.translate()
	if err != nil {
		return nil, fmt.Errorf("failed to initialize new pipeline: %w", err)
	}
	if err := s.checkCache(point, spec); err != nil {
		return nil, err
	}
	if !s.quiet {
		for _, w := range s.warnings {
			p.warn("%s", w)
		}
	}
	if err := checkStore(ctx, spec); err != nil {
		return nil, err
	}
	if spec.Mount.EmptyPoint {
		if err := checkEmpty(point); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(spec.Mount.LogFile), 0o700); err != nil {
		return nil, fmt.Errorf("directory of the log: %w", err)
	}
	return spec, nil
}

// checkPoint refuses a mount point in Cloudfuse's words. What is left of a mount whose
// server is gone is no obstacle: it is detached when the mount begins.
func checkPoint(point string) error {
	table, err := mount.Mountpoints()
	if err != nil {
		return err
	}
	for _, m := range table {
		if m.Point != point || !strings.HasPrefix(m.Type, "fuse") {
			continue
		}
		if mount.IsDead(point) {
			return nil
		}
		return fmt.Errorf("directory is already mounted: %s is at %s", m.Source, point)
	}
	info, err := os.Stat(point)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("mount directory does not exist: %s", point)
	case err != nil:
		return fmt.Errorf("mount directory: %w", err)
	case !info.IsDir():
		return fmt.Errorf("mount directory is not a directory: %s", point)
	}
	return nil
}

// checkEmpty refuses a mount point that holds anything.
func checkEmpty(point string) error {
	f, err := os.Open(point)
	if errors.Is(err, os.ErrNotExist) { // of a dry run
		return nil
	}
	if err != nil {
		if mount.IsDead(point) {
			return nil
		}
		return fmt.Errorf("mount directory: %w", err)
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	if len(names) > 0 {
		return fmt.Errorf("mount directory is not empty: %s holds %s; mount over it all the same with nonempty", point, names[0])
	}
	return nil
}

// checkCache refuses a cache directory that is the mount point or below it.
func (s *settings) checkCache(point string, spec *mount.Spec) error {
	dir := spec.Mount.CacheDir
	if dir == "" {
		return nil
	}
	if rel, err := filepath.Rel(point, dir); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return usageError("the cache directory %s is the mount point or below it", dir)
	}
	return nil
}
