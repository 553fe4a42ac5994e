package s3

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
)

// reloading are credentials of the SDK's chain (environment, shared files, web
// identity, containers, instances), looked for anew when one of the shared files
// has changed: the chain itself reads them once.
type reloading struct {
	load  func(context.Context) (aws.Config, error)
	files []string

	mu    sync.Mutex
	inner aws.CredentialsProvider
	seen  string // state of the files that inner was made of
}

// sharedFiles are those that the chain reads, present or not.
func (cfg *Config) sharedFiles() []string {
	pick := func(own []string, env, name string) []string {
		if len(own) > 0 {
			return own
		}
		if f := os.Getenv(env); f != "" {
			return []string{f}
		}
		home, err := os.UserHomeDir()
		if err != nil {
			return nil
		}
		return []string{filepath.Join(home, ".aws", name)}
	}
	return append(pick(cfg.CredentialFiles, "AWS_SHARED_CREDENTIALS_FILE", "credentials"), pick(cfg.ConfigFiles, "AWS_CONFIG_FILE", "config")...)
}

func (r *reloading) state() string {
	s := ""
	for _, f := range r.files {
		if st, err := os.Stat(f); err == nil {
			s += fmt.Sprintf("%d %s\n", st.Size(), st.ModTime().Format(time.RFC3339Nano))
		} else {
			s += "-\n"
		}
	}
	return s
}

// Retrieve implements aws.CredentialsProvider.
func (r *reloading) Retrieve(ctx context.Context) (aws.Credentials, error) {
	r.mu.Lock()
	if now := r.state(); now != r.seen {
		// A file in the middle of being changed leaves what was there before.
		if ac, err := r.load(ctx); err == nil {
			r.inner, r.seen = ac.Credentials, now
		}
	}
	inner := r.inner
	r.mu.Unlock()
	return inner.Retrieve(ctx)
}

// withReload makes the configuration's credentials ones that are read again.
func (cfg *Config) withReload(ac *aws.Config, load []func(*config.LoadOptions) error) {
	r := &reloading{files: cfg.sharedFiles(), inner: ac.Credentials}
	r.load = func(ctx context.Context) (aws.Config, error) { return config.LoadDefaultConfig(ctx, load...) }
	r.seen = r.state()
	ac.Credentials = r
}
