package flexfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
)

// fsType is the type of fstab lines.
const fsType = "flexfs"

// fstabPath is the table; libmount's variable for another one is heeded.
func fstabPath() string {
	if path := os.Getenv("LIBMOUNT_FSTAB"); path != "" {
		return path
	}
	return "/etc/fstab"
}

// fstabLine is a line of fstab, taken apart.
type fstabLine struct {
	raw    string
	fields []string // unescaped; nil for comments and empty lines
}

// parseFstab takes a table apart. Lines that are no entries stay as they are.
func parseFstab(data []byte) []fstabLine {
	var lines []fstabLine
	for _, raw := range strings.SplitAfter(string(data), "\n") {
		if raw == "" {
			continue
		}
		l := fstabLine{raw: raw}
		// As getmntent(3) has it: blanks and tabs divide, and nothing else does.
		fields := strings.FieldsFunc(raw, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
		if len(fields) > 0 && fields[0][0] != '#' {
			for _, f := range fields {
				l.fields = append(l.fields, unescapeFstab(f))
			}
		}
		lines = append(lines, l)
	}
	return lines
}

var fstabEscapes = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)

func escapeFstab(s string) string { return fstabEscapes.Replace(s) }

// unescapeFstab reads the octal escapes of getmntent(3).
func unescapeFstab(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// is tells whether the line mounts at a directory, with the type flexfs if ours.
func (l *fstabLine) is(point string, ours bool) bool {
	return len(l.fields) >= 3 && filepath.Clean(l.fields[1]) == point && (!ours || l.fields[2] == fsType)
}

// writeFstab replaces the table in one step, keeping owner and mode. Where it is a
// mount point itself, as in containers, it is written in place.
func writeFstab(path string, lines []fstabLine) error {
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l.raw)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("fstab: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".fstab-*")
	if err != nil {
		return fmt.Errorf("fstab: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(b.Bytes())
	err = errors.Join(err, temp.Chmod(info.Mode().Perm()))
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		err = errors.Join(err, temp.Chown(int(st.Uid), int(st.Gid)))
	}
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return fmt.Errorf("fstab: %w", err)
	}
	err = os.Rename(temp.Name(), path)
	if errors.Is(err, syscall.EBUSY) {
		err = os.WriteFile(path, b.Bytes(), info.Mode().Perm())
	}
	if err != nil {
		return fmt.Errorf("fstab: %w", err)
	}
	return nil
}

// fstabCommand makes "init fstab".
func (p *Personality) fstabCommand() *cobra.Command {
	var file, options string
	var now, force bool
	cmd := &cobra.Command{
		Use: "fstab NAME DIR", Short: "Write a line into fstab", Args: cmdline.Args(2, "NAME", "DIR"),
		Long: `Write a line into /etc/fstab that mounts the volume NAME at DIR, and make DIR if it
is not there. --mountOptions are flags of "mount.flexfs start" without their dashes,
divided by commas.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			name := args[0]
			own, err := credsPath(name)
			if err != nil {
				return err
			}
			point, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			if file, err = absolute(file); err != nil {
				return err
			}
			list := "_netdev,nofail"
			if file != "" && file != own {
				list = "credsFile=" + strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(file) + "," + list
			}
			if options != "" {
				list += "," + options
			}
			r := newRequest()
			r.name, r.point = name, point
			if err := r.parseOptions(list, false); err != nil {
				return err
			}
			line := strings.Join([]string{escapeFstab(name), escapeFstab(point), fsType, escapeFstab(list), "0", "0"}, " ") + "\n"
			if err := p.addFstab(point, line, force); err != nil {
				return err
			}
			fmt.Fprint(p.Out, line)
			if now {
				return p.start(cmd.Context(), r)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&file, "credsFile", "", "`FILE` of the credentials, if not ~/.flexfs/mount/creds/<NAME>")
	flags.StringVar(&options, "mountOptions", "", "`LIST` of options")
	flags.BoolVar(&now, "now", false, "mount it, too")
	flags.BoolVar(&force, "force", false, "replace a line for the same directory")
	return cmd
}

// addFstab adds a line and makes the mount point.
func (p *Personality) addFstab(point, line string, force bool) error {
	path := fstabPath()
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("fstab: %w", err)
	}
	var lines []fstabLine
	for _, l := range parseFstab(data) {
		if l.is(point, false) {
			if !l.is(point, true) || !force {
				return fmt.Errorf("%s has a line for %s already: %s", path, point, strings.TrimSpace(l.raw))
			}
			continue
		}
		lines = append(lines, l)
	}
	if n := len(lines); n > 0 && !strings.HasSuffix(lines[n-1].raw, "\n") {
		lines[n-1].raw += "\n"
	}
	// A mount point that is a dead mount cannot be looked at, but it is there.
	if err := os.MkdirAll(point, 0o755); err != nil && !errors.Is(err, os.ErrExist) && !mount.IsDead(point) {
		return fmt.Errorf("mount point: %w", err)
	}
	return writeFstab(path, append(lines, fstabLine{raw: line}))
}

// unfstabCommand makes "deinit fstab".
func (p *Personality) unfstabCommand() *cobra.Command {
	return &cobra.Command{
		Use: "fstab [NAME] DIR", Short: "Remove a line of fstab", Args: cmdline.Args(1, "NAME", "DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			name := ""
			if len(args) == 2 {
				name = args[0]
			}
			point, err := filepath.Abs(args[len(args)-1])
			if err != nil {
				return err
			}
			path := fstabPath()
			data, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("fstab: %w", err)
			}
			var keep []fstabLine
			removed := ""
			for _, l := range parseFstab(data) {
				if l.is(point, true) && (name == "" || l.fields[0] == name) {
					removed += l.raw
					continue
				}
				keep = append(keep, l)
			}
			if removed == "" {
				return fmt.Errorf("%s has no line of the type flexfs for %s", path, strings.Join(args, " at "))
			}
			if err := writeFstab(path, keep); err != nil {
				return err
			}
			fmt.Fprintf(p.Out, "removed: %s\n", strings.TrimSpace(removed))
			return nil
		},
	}
}
