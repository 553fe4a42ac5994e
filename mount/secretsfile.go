package mount

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// SecretsFile is a configuration file of another program from which a bucket's secrets
// were taken, and from which they are taken again when it has changed.
type SecretsFile struct {
	// Program is the name under which RegisterSecrets made its reader known.
	Program string `json:"program"`
	File    string `json:"file"` // absolute
}

// secretsReaders read the secrets of configuration files, by program.
var secretsReaders = map[string]func(file string) (*BucketSecrets, error){}

// RegisterSecrets makes known how a program's configuration files are read for their
// secrets. It is called by init functions.
func RegisterSecrets(program string, read func(file string) (*BucketSecrets, error)) {
	if secretsReaders[program] != nil {
		panic("mount: secrets of " + program + " are registered twice")
	}
	secretsReaders[program] = read
}

// rereadSAS returns a function that gives the SAS of now. It may be called concurrently. A
// file that is being written, or no longer names a SAS, leaves the one there was.
func (f *SecretsFile) rereadSAS(sas string) func() (string, error) {
	read := secretsReaders[f.Program]
	var mu sync.Mutex
	var looked time.Time
	seen := f.state()
	return func() (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); read != nil && now.Sub(looked) >= rereadPause {
			looked = now
			if state := f.state(); state != seen {
				seen = state
				if s, err := read(f.File); err == nil && s != nil && s.SAS != "" {
					sas = s.SAS
				}
			}
		}
		return sas, nil
	}
}

// rereadPause is how long a file is believed to be what it was.
const rereadPause = time.Second

// state changes with the file.
func (f *SecretsFile) state() string {
	info, err := os.Stat(f.File)
	if err != nil {
		return ""
	}
	return fmt.Sprint(info.Size(), info.ModTime().UnixNano())
}
