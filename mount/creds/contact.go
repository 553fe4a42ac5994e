package creds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/massif-fs/massif/service/admin/adminapi"
)

// Contact says how a client meets an admin server for the first time.
type Contact struct {
	Fingerprint string // that the server must show; "": see Confirm
	CAFile      string // file of the authorities that vouch for it
	Insecure    bool   // no questions asked

	// Confirm asks a person; nil where nobody can be asked.
	Confirm func(question string) (bool, error)
	Out     io.Writer // for what the person must know
}

// FirstContact decides how the server at addr is recognized from now on. Nothing
// secret is sent.
func FirstContact(ctx context.Context, addr string, c Contact) (adminapi.Trust, error) {
	set := 0
	for _, on := range []bool{c.Fingerprint != "", c.CAFile != "", c.Insecure} {
		if on {
			set++
		}
	}
	if set > 1 {
		return adminapi.Trust{}, errors.New("--fingerprint, --ca and --insecure exclude each other")
	}
	switch {
	case c.Insecure:
		fmt.Fprintf(c.Out, "WARNING: --insecure: nobody checks that %s is the admin server. Whoever stands between here and there\n"+
			"gets the token, and with it the data. Use it for tests only, or give --fingerprint.\n", addr)
		return adminapi.Trust{Insecure: true}, nil
	case c.CAFile != "":
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return adminapi.Trust{}, fmt.Errorf("authority: %w", err)
		}
		trust := adminapi.Trust{CA: string(pem)}
		_, err = trust.TLS(addr)
		return trust, err
	case c.Fingerprint != "":
		f, err := adminapi.ParseFingerprint(c.Fingerprint)
		return adminapi.Trust{Fingerprint: f}, err
	}
	found, err := adminapi.Probe(ctx, addr)
	if err != nil {
		return adminapi.Trust{}, err
	}
	if found.Public {
		return adminapi.Trust{}, nil
	}
	if c.Confirm == nil {
		return adminapi.Trust{}, fmt.Errorf("no authority that this machine trusts vouches for %s; compare its fingerprint with what the server printed when it started, then give --fingerprint %s", addr, found.Fingerprint)
	}
	fmt.Fprintf(c.Out, "The admin server %s is met for the first time, and no authority that this machine trusts vouches for it.\n"+
		"Its fingerprint is\n\n  %s\n\nCompare it with what the server printed when it started.\n", addr, found.Fingerprint)
	yes, err := c.Confirm("Is it the same?")
	if err != nil {
		return adminapi.Trust{}, err
	}
	if !yes {
		return adminapi.Trust{}, errors.New("the admin server was not trusted; nothing was written")
	}
	return adminapi.Trust{Fingerprint: found.Fingerprint}, nil
}
