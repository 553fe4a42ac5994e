package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/seal"
)

// passphraseFlags say where a passphrase comes from. The terminal is asked where they
// and the environment have none.
type passphraseFlags struct {
	file string
	fd   int
}

func (p *passphraseFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&p.file, "passphrase-file", "", "`FILE` (mode 0600) with the passphrase of an encrypted volume")
	p.addFD(flags)
}

// addFD adds only what is no mount option.
func (p *passphraseFlags) addFD(flags *pflag.FlagSet) {
	flags.IntVar(&p.fd, "passphrase-fd", -1, "`NUMBER` of an open file descriptor to read the passphrase from")
}

// get returns what flags or environment have; nil if they have nothing.
func (p *passphraseFlags) get() (seal.Passphrase, error) {
	switch {
	case p.fd >= 0 && p.file != "":
		return nil, usageError("--passphrase-file and --passphrase-fd exclude each other")
	case p.fd >= 0:
		f := os.NewFile(uintptr(p.fd), "passphrase")
		if f == nil {
			return nil, usageError("--passphrase-fd %d is not open", p.fd)
		}
		defer f.Close()
		pass, err := mount.ReadPassphrase(f)
		if err != nil {
			return nil, fmt.Errorf("passphrase from descriptor %d: %w", p.fd, err)
		}
		return pass, nil
	case p.file != "":
		return mount.ReadPassphraseFile(p.file)
	}
	if text, ok := os.LookupEnv(mount.PassphraseEnv); ok {
		if text == "" {
			return nil, fmt.Errorf("the passphrase in %s is empty", mount.PassphraseEnv)
		}
		return seal.Passphrase(text), nil
	}
	return nil, nil
}

// of returns the passphrase of a volume, asking for it if need be.
func (p *passphraseFlags) of(ctx context.Context, volume string) (seal.Passphrase, error) {
	pass, err := p.get()
	if pass != nil || err != nil {
		return pass, err
	}
	pass, err = ask(ctx, "Passphrase of volume "+volume+": ")
	if errors.Is(err, errNoTerminal) {
		return nil, &mount.LockedError{Name: volume}
	}
	return pass, err
}

// chosen returns a new passphrase. On a terminal it is asked for twice.
func (p *passphraseFlags) chosen(ctx context.Context, volume string) (seal.Passphrase, error) {
	pass, err := p.get()
	if err != nil {
		return nil, err
	}
	if pass != nil {
		return pass, pass.Check()
	}
	return askNew(ctx, volume)
}

func askNew(ctx context.Context, volume string) (seal.Passphrase, error) {
	pass, err := ask(ctx, "New passphrase of volume "+volume+": ")
	if errors.Is(err, errNoTerminal) {
		return nil, usageError("there is no terminal to ask for the new passphrase of volume %s on: give it in a file or in %s", volume, mount.PassphraseEnv)
	}
	if err == nil {
		err = pass.Check()
	}
	if err != nil {
		return nil, err
	}
	again, err := ask(ctx, "The same again: ")
	if err != nil {
		return nil, err
	}
	defer again.Wipe()
	if !bytes.Equal(pass, again) {
		return nil, errors.New("the two passphrases differ")
	}
	return pass, nil
}

var errNoTerminal = errors.New("there is no terminal")

// ask reads a passphrase from the terminal, whatever standard input is, until ctx is
// done.
func ask(ctx context.Context, prompt string) (seal.Passphrase, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, errNoTerminal
	}
	defer tty.Close()
	fd := int(tty.Fd())
	if !term.IsTerminal(fd) {
		return nil, errNoTerminal
	}
	fmt.Fprint(tty, prompt)
	err = awaitLine(ctx, fd)
	var pass []byte
	if err == nil {
		pass, err = term.ReadPassword(fd)
	}
	fmt.Fprintln(tty)
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	if len(pass) == 0 {
		return nil, errors.New("the passphrase is empty")
	}
	return pass, nil
}

// awaitLine waits until a line has been typed that was not to be seen. A signal, which
// the program takes as the end of ctx, does not end a read of a terminal.
func awaitLine(ctx context.Context, fd int) error {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return err
	}
	defer unix.IoctlSetTermios(fd, unix.TCSETS, old)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return err
		}
	}
}

// passphraseFlagsOf returns what the command line said.
func passphraseFlagsOf(cmd *cobra.Command) (p *passphraseFlags, err error) {
	p = &passphraseFlags{fd: -1}
	if cmd.Flags().Lookup("passphrase-file") == nil {
		return p, nil
	}
	if p.file, err = cmd.Flags().GetString("passphrase-file"); err != nil {
		return nil, err
	}
	p.fd, err = cmd.Flags().GetInt("passphrase-fd")
	return p, err
}

// registryFor opens the registry for a command that may need a volume's passphrase.
func registryFor(cmd *cobra.Command) (*mount.Registry, error) {
	registry, err := mount.OpenRegistry()
	if err != nil {
		return nil, err
	}
	p, err := passphraseFlagsOf(cmd)
	if err != nil {
		return nil, err
	}
	registry.Passphrase = func(volume string, must bool) (seal.Passphrase, error) {
		if must {
			return p.of(cmd.Context(), volume)
		}
		return p.get()
	}
	return registry, nil
}

// unlockSpec gets the passphrase of what is about to be mounted, if it needs one.
func unlockSpec(ctx context.Context, spec *mount.Spec, p *passphraseFlags) error {
	registry, err := mount.OpenRegistry()
	if err != nil {
		return err
	}
	name, needs := spec.NeedsPassphrase(registry)
	if !needs && p.fd < 0 {
		return nil
	}
	spec.Passphrase, err = p.of(ctx, name)
	return err
}
