package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/telemetry"
)

func (a *app) serveCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "serve",
		Short:   "Run a server of shared volumes",
		GroupID: "servers",
		Long: `Run a server of shared volumes. Servers stay in the foreground, tell systemd when
they are ready, and end cleanly on SIGTERM, SIGINT and SIGQUIT.

Every flag of a server can also stand in a TOML file that --config names, as a key
of the same name: listen = ":443". Flags of the command line win.`,
	}, a.serveAdminCommand(), a.serveMetaCommand(), a.serveAllCommand())
}

// serverFlags are flags that all servers have.
type serverFlags struct {
	config, dir                  string
	foreground                   bool
	logLevel, logFile, logFormat string
	metricsAddr                  string
	pprof                        bool
}

func (f *serverFlags) add(cmd *cobra.Command, dir string) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.config, "config", "", "`FILE` with these flags as keys (TOML)")
	flags.StringVar(&f.dir, "dir", "", "`DIR` of the server's files (default: "+dir+" below Massif's directory)")
	flags.BoolVarP(&f.foreground, "foreground", "f", true, "stay in the foreground (servers always do)")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&f.logFile, "log-file", "", "`FILE` for the log (default: standard error)")
	flags.StringVar(&f.logFormat, "log-format", "text", "text or json")
	flags.StringVar(&f.metricsAddr, "metrics-addr", "", "`HOST:PORT` of Prometheus metrics (/metrics) and health (/healthz), over HTTP")
	flags.BoolVar(&f.pprof, "pprof", false, "profiles at --metrics-addr (/debug/pprof)")
}

// directory is where the server's files are.
func (f *serverFlags) directory(name string) (string, error) {
	if f.dir != "" {
		return filepath.Abs(f.dir)
	}
	home, err := mount.Home()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, name), nil
}

// maxConfig bounds a server's configuration file, in bytes.
const maxConfig = 1 << 20

// applyConfig sets the flags that a configuration file names and the command line
// does not.
func applyConfig(flags *pflag.FlagSet, path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if info.Size() > maxConfig {
		return fmt.Errorf("configuration %s is larger than %v", path, mount.Size(maxConfig))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := parseConfig(flags, data); err != nil {
		return usageError("configuration %s: %v", path, err)
	}
	return nil
}

func parseConfig(flags *pflag.FlagSet, data []byte) error {
	values := map[string]any{}
	if err := toml.Unmarshal(data, &values); err != nil {
		var d *toml.DecodeError
		if errors.As(err, &d) {
			line, column := d.Position()
			return fmt.Errorf("line %d, column %d: %s", line, column, strings.TrimPrefix(d.Error(), "toml: "))
		}
		return err
	}
	for name, value := range values {
		f := flags.Lookup(name)
		if f == nil || name == "config" || name == "help" {
			var names []string
			flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
			if near := mount.Nearest(name, names); near != "" {
				return fmt.Errorf("the key %q is not known; did you mean %q?", name, near)
			}
			return fmt.Errorf("the key %q is not known", name)
		}
		if f.Changed {
			continue
		}
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		for _, v := range list {
			switch v.(type) {
			case map[string]any, []any:
				return fmt.Errorf("the key %q: write a value or a list of values", name)
			}
			if err := f.Value.Set(fmt.Sprint(v)); err != nil {
				return fmt.Errorf("the key %q: %w", name, err)
			}
		}
	}
	return nil
}

// serve runs a server: start makes it ready, and what start returns runs until its
// context is done.
func (f *serverFlags) serve(cmd *cobra.Command, start func(ctx context.Context, w *serverWatch, log *slog.Logger) (run func(context.Context) error, err error)) (err error) {
	level, err := telemetry.ParseLevel(f.logLevel)
	if err != nil {
		return usageError("--log-level: %v", err)
	}
	format, err := telemetry.ParseFormat(f.logFormat)
	if err != nil {
		return usageError("--log-format: %v", err)
	}
	log, err := telemetry.OpenLog(telemetry.Logging{Level: level, Format: format, File: f.logFile})
	if err != nil {
		return err
	}
	defer log.Close()
	slog.SetDefault(log.Logger)
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGQUIT) // TERM and INT end it already
	defer stop()
	watch, err := f.watch(log.Logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, watch.close()) }()
	run, err := start(ctx, watch, log.Logger)
	if err != nil {
		return err
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("systemd was not told that the server is ready", "err", err)
	}
	context.AfterFunc(ctx, func() { daemon.SdNotify(false, daemon.SdNotifyStopping) })
	return run(ctx)
}

// inJournal tells whether what the process prints is kept by systemd.
func inJournal() bool { return os.Getenv("JOURNAL_STREAM") != "" || os.Getenv("NOTIFY_SOCKET") != "" }

// handOut gives a secret to who started the server: on standard output, or in a file
// where that would be kept in a log.
func (a *app) handOut(what, secret, file, fallback string) error {
	if file == "" && inJournal() {
		file = fallback
	}
	if file == "" {
		fmt.Fprintf(a.out, "%s, shown this once: %s\n", what, secret)
		return nil
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = fmt.Fprintln(out, secret)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Fprintf(a.out, "%s is in %s; take it from there and remove the file\n", what, file)
	return nil
}
