// Package terminal asks people questions, and hides what they type where it is
// secret. It speaks to the terminal itself, so that questions reach the person also
// where standard input and output lead elsewhere.
package terminal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// ErrNone says that nobody can be asked: the process has no terminal.
var ErrNone = errors.New("there is no terminal to ask at")

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 4096

// open opens the terminal of the process.
func open() (*os.File, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil || !term.IsTerminal(int(tty.Fd())) {
		if err == nil {
			tty.Close()
		}
		return nil, ErrNone
	}
	return tty, nil
}

// Secret asks for something that is not shown while it is typed.
func Secret(question string) (string, error) {
	tty, err := open()
	if err != nil {
		return "", err
	}
	defer tty.Close()
	// The echo goes before the question comes: who is quick must not see the answer.
	restore, err := silence(int(tty.Fd()))
	if err != nil {
		return "", err
	}
	defer restore()
	fmt.Fprint(tty, question)
	answer, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	return string(answer), err
}

// silence switches the echo of a terminal off.
func silence(fd int) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return nil, err
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}

// Ask asks for a line.
func Ask(question string) (string, error) {
	tty, err := open()
	if err != nil {
		return "", err
	}
	defer tty.Close()
	fmt.Fprint(tty, question)
	line, err := bufio.NewReader(io.LimitReader(tty, maxAnswer)).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.TrimSpace(line), err
}

// Confirm asks a question that only the whole word yes answers.
func Confirm(question string) (bool, error) {
	answer, err := Ask(question + " (yes/no) ")
	return strings.EqualFold(answer, "yes"), err
}

// Hide overwrites the values of the named flags in the command line that ps(1) shows
// of this process; a name of one letter is that of a short flag. Arguments given to it must not be used afterwards: their strings
// are overwritten. It does what the system allows; a secret on a command line was
// to be seen until now, so a prompt or a file is better.
func Hide(args []string, flags ...string) []string {
	out := make([]string, len(args))
	hideNext := false
	for i, a := range args {
		out[i] = strings.Clone(a)
		if hideNext {
			overwrite(a)
			hideNext = false
			continue
		}
		name, value, has := strings.Cut(a, "=")
		for _, f := range flags {
			if name != "--"+f && (name != "-"+f || len(f) > 1) {
				continue
			}
			if has {
				overwrite(value)
			} else {
				hideNext = true
			}
		}
	}
	return out
}

// overwrite writes over a string of os.Args, which Go leaves where the kernel has
// put it: there ps reads it.
func overwrite(s string) {
	if len(s) == 0 {
		return
	}
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for i := range b {
		b[i] = 'x'
	}
}

// Present tells whether somebody can be asked.
func Present() bool {
	tty, err := open()
	if err == nil {
		tty.Close()
	}
	return err == nil
}
