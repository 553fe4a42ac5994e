package cloudfuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"
	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/cmdline"
)

// target is the systemd target of all mounts that "service" and --enable-remount-system
// have made: it starts and stops them together.
const target = "cloudfuse.target"

// unitDir is where systemd looks for units of this user: of the system, if that is root.
func unitDir() (string, error) {
	if dirs := os.Getenv("SYSTEMD_UNIT_PATH"); dirs != "" {
		return strings.Split(dirs, ":")[0], nil
	}
	if os.Geteuid() == 0 {
		return "/etc/systemd/system", nil
	}
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "systemd", "user"), err
}

// systemctl runs it, for this user's own units unless he is root.
func systemctl(ctx context.Context, args ...string) error {
	if os.Geteuid() != 0 {
		args = append([]string{"--user"}, args...)
	}
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("there is no systemd on this machine: systemctl is not found")
	}
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.Join(strings.Fields(said.String()), " "))
	}
	return nil
}

// unitName is the name of a mount's unit.
func unitName(point string) string { return "cloudfuse-" + unit.UnitNamePathEscape(point) + ".service" }

// quoted writes an argument of a command as units have it.
func quoted(arg string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`, "\n", `\n`).Replace(arg) + `"`
}

// unitText is the unit that mounts a directory when the machine starts.
func (r *mountRequest) unitText(program, point string) (string, error) {
	config, err := filepath.Abs(r.path())
	if err != nil {
		return "", err
	}
	args := []string{program, "mount", point, "--foreground"}
	if _, err := os.Stat(config); err == nil || r.named {
		args = append(args, "--config-file="+config)
	}
	for _, one := range r.flags {
		switch {
		case one.flag.key == "foreground":
		case one.flag.convert != nil && one.flag.arg == "": // as it was given
			back, err := one.flag.original(one.value)
			if err != nil {
				return "", err
			}
			args = append(args, "--"+one.flag.name+"="+back)
		default:
			args = append(args, "--"+one.flag.name+"="+one.value)
		}
	}
	if r.secure {
		args = append(args, "--secure-config")
	}
	for _, o := range r.options {
		args = append(args, "-o", o)
	}
	for i := range args {
		args[i] = quoted(args[i])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[Unit]\nDescription=Cloudfuse mount at %s\nWants=network-online.target\nAfter=network-online.target\nPartOf=%s\n\n", strings.ReplaceAll(point, "%", "%%"), target)
	fmt.Fprintf(&b, "[Service]\nType=notify\nExecStart=%s\nRestart=on-failure\n# What was written is stored before the mount ends.\nTimeoutStopSec=15min\n", strings.Join(args, " "))
	if r.remountUser != "" {
		fmt.Fprintf(&b, "User=%s\n", r.remountUser)
	}
	if r.sealed() {
		fmt.Fprintf(&b, "# %s=… stands in this file, which has the mode 0600.\nEnvironmentFile=%s\n", passphraseEnv, strings.ReplaceAll(config, "%", "%%")+".env")
	}
	fmt.Fprintf(&b, "\n[Install]\nWantedBy=%s\n", target)
	return b.String(), nil
}

// original is the value of a switch that convert made another of.
func (f *mountFlag) original(converted string) (string, error) {
	for _, v := range []string{"true", "false"} {
		if got, err := f.convert(v); err == nil && got == converted {
			return v, nil
		}
	}
	return "", fmt.Errorf("--%s: %q", f.name, converted)
}

// installMount writes the unit of a mount and starts it, now and with the machine.
func (p *Personality) installMount(ctx context.Context, r *mountRequest, point string) error {
	if strings.ContainsAny(r.remountUser, " \t\n%") {
		return usageError("--remount-system-user: %q is no user", r.remountUser)
	}
	program, err := ownName()
	if err != nil {
		return err
	}
	text, err := r.unitText(program, point)
	if err != nil {
		return err
	}
	if err := p.installTarget(ctx); err != nil {
		return err
	}
	if err := writeUnit(unitName(point), text); err != nil {
		return err
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	if err := systemctl(ctx, "enable", "--now", unitName(point)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.Out, "%s is mounted, also when the machine starts: %s\n", point, unitName(point))
	return err
}

// ownName is a path of this program by which it takes this personality.
func ownName() (string, error) {
	if path, err := exec.LookPath(os.Args[0]); err == nil && filepath.Base(path) == "cloudfuse" {
		return filepath.Abs(path)
	}
	return "", errors.New("the program is not started as cloudfuse: \"massif personalities install DIR cloudfuse\" makes the link that a unit needs")
}

func writeUnit(name, text string) error {
	dir, err := unitDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// No secret is in it, and others may want to read it.
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
}

func (p *Personality) installTarget(ctx context.Context) error {
	wanted := "multi-user.target"
	if os.Geteuid() != 0 {
		wanted = "default.target"
	}
	if err := writeUnit(target, "[Unit]\nDescription=Mounts of Cloudfuse\n\n[Install]\nWantedBy="+wanted+"\n"); err != nil {
		return err
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	return systemctl(ctx, "enable", target)
}

// forgetUnit stops a mount's unit and removes it. A mount without one is no error.
func (p *Personality) forgetUnit(ctx context.Context, point string) error {
	point, err := cleanPoint(point)
	if err != nil {
		return err
	}
	dir, err := unitDir()
	if err != nil {
		return err
	}
	file := filepath.Join(dir, unitName(point))
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s has no unit %s", point, unitName(point))
	}
	if err := systemctl(ctx, "disable", "--now", unitName(point)); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil {
		return err
	}
	return systemctl(ctx, "daemon-reload")
}

func (p *Personality) serviceCommand() *cobra.Command {
	simple := func(name, short string, aliases []string, run func(ctx context.Context) error) *cobra.Command {
		return &cobra.Command{Use: name, Short: short, Aliases: aliases, Args: cmdline.Args(0), RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context()) }}
	}
	r := &mountRequest{}
	mountCmd := &cobra.Command{
		Use: "mount PATH", Short: "Mount now and whenever the machine starts", Args: cmdline.Args(1, "PATH"),
		Example: "  cloudfuse service mount /mnt/photos --config-file=config.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.named, r.remountSystem = cmd.Flags().Changed("config-file"), true
			return p.mount(cmd.Context(), r, args[0])
		},
	}
	r.addFlags(mountCmd.Flags())
	unmountCmd := &cobra.Command{
		Use: "unmount PATH", Short: "Unmount, and do not mount again when the machine starts", Args: cmdline.Args(1, "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.forgetUnit(cmd.Context(), args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.Out, "Successfully unmounted %s\n", args[0])
			return err
		},
	}
	var registry []*cobra.Command
	for _, name := range []string{"add-registry", "remove-registry"} {
		registry = append(registry, &cobra.Command{Use: name, Short: "Of Windows", Hidden: true, Args: cobra.ArbitraryArgs, RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("service %s: there is a registry on Windows only", name)
		}})
	}
	return group(&cobra.Command{
		Use: "service", Short: "Mount when the machine starts, through systemd",
		Long: `Mount when the machine starts. Each mount is a unit of systemd, and all of them belong to
` + target + `: of the system for root, else of the user's own instance.`,
	}, append(registry,
		simple("install", "Install the target of all mounts", nil, func(ctx context.Context) error {
			if err := p.installTarget(ctx); err != nil {
				return err
			}
			return systemctl(ctx, "start", target)
		}),
		simple("uninstall", "Stop all mounts and remove their units and the target", []string{"remove"}, p.uninstall),
		simple("start", "Start all mounts", nil, func(ctx context.Context) error { return systemctl(ctx, "start", target) }),
		simple("stop", "Stop all mounts", nil, func(ctx context.Context) error { return systemctl(ctx, "stop", target) }),
		mountCmd, unmountCmd)...)
}

// uninstall removes the target and the units of all mounts.
func (p *Personality) uninstall(ctx context.Context) error {
	dir, err := unitDir()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "cloudfuse-*.service"))
	if err != nil {
		return err
	}
	files = append(files, filepath.Join(dir, target))
	if _, err := os.Stat(files[len(files)-1]); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the service is not installed: there is no %s", files[len(files)-1])
	}
	for _, file := range files {
		if err := systemctl(ctx, "disable", "--now", filepath.Base(file)); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return systemctl(ctx, "daemon-reload")
}
