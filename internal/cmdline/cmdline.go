// Package cmdline is what the command lines of Massif and of its personalities have in
// common: the checks of arguments, and what is said of those that make no sense. All errors are
// *mount.UsageError.
package cmdline

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/mount"
)

func usageError(format string, args ...any) error {
	return &mount.UsageError{Err: fmt.Errorf(format, args...)}
}

// Args wants the first min of the named arguments and takes the others.
func Args(min int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < min:
			return usageError("%s: %s is missing; usage: %s", cmd.CommandPath(), names[len(args)], cmd.UseLine())
		case len(args) > len(names):
			return usageError("%s: too many arguments, beginning with %q; usage: %s", cmd.CommandPath(), args[len(names)], cmd.UseLine())
		}
		return nil
	}
}

// UnknownCommand names the commands that there are below cmd.
func UnknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usageError("there is no command %q; there are %s", cmd.CommandPath()+" "+name, strings.Join(names, ", "))
}

// FlagErrors makes usage errors of the flag library's. To a flag that is unknown it adds the
// nearest that there is, with hidden also of those that the help does not show; unknown are
// the words that stand before the flag.
func FlagErrors(unknown string, hidden bool) func(*cobra.Command, error) error {
	return func(cmd *cobra.Command, err error) error {
		name, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
		if !ok {
			return usageError("%s", err.Error())
		}
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if hidden || !f.Hidden {
				names = append(names, f.Name)
			}
		})
		if near := mount.Nearest(name, names); near != "" {
			return usageError("%s --%s; did you mean --%s?", unknown, name, near)
		}
		return usageError("%s --%s; \"%s --help\" lists the flags", unknown, name, cmd.CommandPath())
	}
}
