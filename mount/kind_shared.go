package mount

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/metarpc"
	"github.com/massif-fs/massif/meta/sealed"
	"github.com/massif-fs/massif/mount/creds"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/retry"
	"github.com/massif-fs/massif/object/s3"
	"github.com/massif-fs/massif/object/storeurl"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/tree/squash"
	"github.com/massif-fs/massif/tree/volume"
	"github.com/massif-fs/massif/vfs"
)

func init() { RegisterKind("shared", func() TreeConfig { return &SharedTree{} }) }

// SharedTree is a volume that many machines mount at once, by way of an admin
// server and a metadata server:
//
//	tree:
//	  kind: shared
//	  admin: admin.example.com:443   # with volume: which credentials
//	  volume: photos
//	  creds: /etc/massif/photos      # the credentials file; default: that of "massif creds init"
//
// Secrets stand in the credentials file only.
type SharedTree struct {
	Admin  string `yaml:"admin" json:"admin,omitempty"`
	Volume string `yaml:"volume" json:"volume,omitempty"`
	Creds  string `yaml:"creds" json:"creds,omitempty"`
}

// Validate implements TreeConfig.
func (t *SharedTree) Validate() error {
	if t.Creds == "" && (t.Admin == "" || t.Volume == "") {
		return &UsageError{errors.New("a shared tree needs \"admin\" and \"volume\", or \"creds\"")}
	}
	if t.Creds != "" && !filepath.IsAbs(t.Creds) {
		return &UsageError{fmt.Errorf("creds %q of a shared tree: write an absolute path", t.Creds)}
	}
	if t.Volume != "" && !validVolumeName(t.Volume) {
		return &UsageError{fmt.Errorf("%q cannot be a volume's name", t.Volume)}
	}
	if t.Admin != "" {
		if _, err := adminapi.Address(t.Admin); err != nil {
			return &UsageError{err}
		}
	}
	return nil
}

// CredsPath is where the credentials of a volume at an admin server are, unless they
// are elsewhere.
func CredsPath(admin, volume string) (string, error) {
	home, err := Home()
	if err != nil {
		return "", err
	}
	addr, err := adminapi.Address(admin)
	if err != nil {
		return "", &UsageError{err}
	}
	if !validVolumeName(volume) {
		return "", &UsageError{fmt.Errorf("%q cannot be a volume's name", volume)}
	}
	return filepath.Join(home, "creds", addr, volume), nil
}

// credentials reads the tree's credentials.
func (t *SharedTree) credentials() (*creds.File, error) {
	path := t.Creds
	if path == "" {
		var err error
		if path, err = CredsPath(t.Admin, t.Volume); err != nil {
			return nil, err
		}
	}
	f, err := creds.Read(path)
	var missing *creds.MissingError
	if errors.As(err, &missing) && t.Creds == "" {
		return nil, fmt.Errorf("there are no credentials for the volume %s at %s; make them with: massif creds init --admin %s", t.Volume, t.Admin, t.Admin)
	}
	return f, err
}

// Encrypted implements encryptedTree. It asks the admin server.
func (t *SharedTree) Encrypted(*Registry) (string, bool) {
	f, err := t.credentials()
	if err != nil || f.Secret != "" {
		return t.Volume, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), askPatience)
	defer cancel()
	m, err := t.ask(ctx, f)
	if err != nil {
		return t.Volume, false // opening it will say why
	}
	return m.VolumeName, m.Encryption
}

// askPatience is how long an admin server has for an answer.
const askPatience = 30 * time.Second

// ask asks the admin server how to mount the volume.
func (t *SharedTree) ask(ctx context.Context, f *creds.File) (*adminapi.MountSettings, error) {
	client, err := f.Client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	m, err := client.Mount(ctx)
	if err != nil {
		return nil, err
	}
	if t.Volume != "" && t.Admin != "" && m.VolumeName != t.Volume {
		return nil, fmt.Errorf("the credentials are for the volume %s, not for %s", m.VolumeName, t.Volume)
	}
	return m, nil
}

// Open implements TreeConfig.
func (t *SharedTree) Open(ctx context.Context, env *Env) (*Opened, error) {
	f, err := t.credentials()
	if err != nil {
		return nil, err
	}
	if f.Insecure {
		env.Log.Warn("nobody checks that the admin server is the right one: the credentials say insecure", "admin", f.AdminAddr)
	}
	m, err := t.ask(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("admin server %s: %w", f.AdminAddr, err)
	}
	forced, err := ForcedFlags(m.Flags)
	if err != nil {
		return nil, fmt.Errorf("volume %s: the admin server demands what this program does not know: %w", m.VolumeName, err)
	}
	if err := env.Options.ParseOptions(forced); err != nil {
		return nil, fmt.Errorf("volume %s: %w", m.VolumeName, err)
	}
	env.Options.ReadOnly = env.Options.ReadOnly || m.ReadOnly || env.Options.AtTime != ""
	if env.Options.ReadOnly {
		env.Options.Writeback = false
	}
	return openShared(ctx, env, f, m)
}

// openShared opens the session and what belongs to it. What fails undoes the rest.
func openShared(ctx context.Context, env *Env, f *creds.File, m *adminapi.MountSettings) (_ *Opened, err error) {
	name := m.VolumeName
	key, err := unlockShared(env, f, m)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", name, err)
	}
	v := &Volume{
		Record: &Record{Name: name, UUID: m.VolumeID, dir: filepath.Join(filepath.Dir(env.Registry.dir), "shared", m.VolumeID)},
		Key:    key, point: env.Point,
	}
	if key != nil {
		v.Record.KeyID = key.ID()
		v.close = append(v.close, func() error { key.Wipe(); return nil })
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	link, err := newMetaLink(m)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", name, err)
	}
	client, err := dialMeta(ctx, env, f, m, link, false)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", name, err)
	}
	var session meta.Session = client
	// From here on the session is closed by the tree, or here.
	defer func() {
		if err != nil && session != nil {
			err = errors.Join(err, session.Close())
		}
	}()
	format := client.Format()
	if format.UUID != m.VolumeID {
		return nil, fmt.Errorf("volume %s: the metadata server opened another volume (%s)", name, format.Name)
	}
	if key != nil {
		inner := session
		if session, err = sealed.New(inner, key, sealed.Options{}); err != nil {
			session = inner
			return nil, fmt.Errorf("volume %s: %w", name, err)
		}
	} else if format.Seal != nil {
		return nil, fmt.Errorf("volume %s: the metadata server says that it is encrypted, the admin server that it is not", name)
	}
	objects, refer, err := openSharedBlocks(ctx, env, f, m, link, client)
	if err != nil {
		return nil, fmt.Errorf("volume %s: blocks: %w", name, err)
	}
	v.Objects = objects
	v.close = append(v.close, objects.Close)
	o := OpenOptions{Options: env.Options, Tree: true, Point: env.Point, Log: env.Log}
	if err := v.openBlocks(ctx, format, divideMemory(memoryLimit(env.Options)), o); err != nil {
		return nil, err
	}
	fs, err := volume.New(volume.Config{
		Session: session, Blocks: v.Blocks, Budget: v.Budget, Refer: refer,
		ReadOnly: env.Options.ReadOnly, NoAtime: env.Options.NoAtime, Logger: env.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", name, err)
	}
	session, v.FS = nil, fs
	return &Opened{
		FS: squashed(fs, env.Options), Source: sharedSource(f.AdminAddr, name),
		Stats: v.sharedStats(), Drain: v.Blocks.Drain, DropCaches: v.Blocks.DropCaches, Close: v.Close,
	}, nil
}

// squashed makes root nobody on a tree, where the options say so.
func squashed(fs *volume.FS, o *Options) vfs.FS {
	if !o.RootSquash {
		return fs
	}
	uid, gid := uint32(Nobody), uint32(Nobody)
	if o.RootSquashUID != nil {
		uid = *o.RootSquashUID
	}
	if o.RootSquashGID != nil {
		gid = *o.RootSquashGID
	}
	return squash.New(fs, uid, gid)
}

// sharedSource is how "massif mount" names the volume.
func sharedSource(admin, name string) string {
	return strings.TrimSuffix(admin, ":443") + "/" + name
}

// unlockShared gets the key of an encrypted volume.
func unlockShared(env *Env, f *creds.File, m *adminapi.MountSettings) (*seal.Key, error) {
	secret := env.Passphrase
	if len(secret) == 0 && env.Options.PassphraseFile != "" {
		var err error
		if secret, err = ReadPassphraseFile(env.Options.PassphraseFile); err != nil {
			return nil, err
		}
	}
	if len(secret) == 0 {
		secret = seal.Passphrase(f.Secret)
	}
	defer secret.Wipe()
	switch {
	case !m.Encryption && (len(secret) > 0 || f.KeyID != ""):
		// Without this a server could make a client write plain text.
		return nil, errors.New("there is a passphrase for it, but the admin server says that it is not encrypted; nothing was opened")
	case !m.Encryption:
		return nil, nil
	case len(m.Seal) == 0:
		return nil, errors.New("it is encrypted and has no passphrase yet; make one with: massif creds init, or mount.flexfs init creds")
	case len(secret) == 0:
		return nil, &LockedError{Name: m.VolumeName}
	}
	record, err := seal.ParseRecord(m.Seal)
	if err != nil {
		return nil, err
	}
	if f.KeyID != "" && record.KeyID != f.KeyID {
		return nil, fmt.Errorf("the admin server passes the key %s, the credentials know %s; nothing was opened", record.KeyID, f.KeyID)
	}
	return record.Unlock(secret)
}

// metaLink is how the metadata server is reached.
type metaLink struct {
	addr string
	tls  *tls.Config
}

func newMetaLink(m *adminapi.MountSettings) (*metaLink, error) {
	config, err := (adminapi.Trust{CA: m.Metadata.CA}).TLS(m.Metadata.Address)
	if err != nil {
		return nil, fmt.Errorf("metadata server: %w", err)
	}
	if m.Metadata.ServerName != "" {
		config.ServerName = m.Metadata.ServerName
	}
	config.MinVersion = tls.VersionTLS13
	return &metaLink{m.Metadata.Address, config}, nil
}

// connect makes a connection that speaks a protocol.
func (l *metaLink) connect(ctx context.Context, protocol string) (net.Conn, error) {
	config := l.tls.Clone()
	config.NextProtos = []string{protocol}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}, Config: config}
	conn, err := d.DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return nil, err
	}
	if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != protocol {
		conn.Close()
		return nil, fmt.Errorf("%s does not speak %s", l.addr, protocol)
	}
	return conn, nil
}

// Session begins a session with the volume's metadata server, without a mount: what
// works on metadata alone needs no more. Without cached, every operation asks the
// server. Names in an encrypted volume stay as they are stored.
func (t *SharedTree) Session(ctx context.Context, cached bool, log *slog.Logger) (*metarpc.Client, error) {
	f, err := t.credentials()
	if err != nil {
		return nil, err
	}
	m, err := t.ask(ctx, f)
	if err != nil {
		return nil, err
	}
	link, err := newMetaLink(m)
	if err != nil {
		return nil, err
	}
	return dialMeta(ctx, &Env{Options: &Options{}, Log: log}, f, m, link, !cached)
}

// dialMeta begins the session.
func dialMeta(ctx context.Context, env *Env, f *creds.File, m *adminapi.MountSettings, link *metaLink, noCache bool) (*metarpc.Client, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	at := env.Options.AtTime
	if at != "" {
		if t, name := ParsePast(at, time.Now()); name != "" {
			at = name
		} else if t != nil {
			at = t.UTC().Format(time.RFC3339Nano)
		}
	}
	dial, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	client, err := metarpc.Dial(dial, metarpc.ClientConfig{
		Connect: func(ctx context.Context) (net.Conn, error) { return link.connect(ctx, metarpc.ALPN) },
		Hello: metarpc.Hello{
			Token: f.Token, Volume: m.VolumeID, At: at, ReadOnly: env.Options.ReadOnly,
			Info: meta.SessionInfo{Host: host, PID: os.Getpid(), Mountpoint: env.Point},
		},
		NoCache: noCache, Logger: env.Log,
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("metadata server %s does not answer: %w", link.addr, syscall.ETIMEDOUT)
	}
	return client, err
}

// openDirect opens the store of a volume whose mounts have its credentials.
func openDirect(ctx context.Context, b *adminapi.BlockStore) (object.Store, error) {
	o := storeurl.Options{UserAgent: "massif", Create: true}
	if b.AccessKeyID != "" {
		o.S3Credentials = &s3.Credentials{AccessKey: b.AccessKeyID, SecretKey: b.SecretKey}
	}
	s, err := storeurl.Open(ctx, b.URL, o)
	if err == nil && s.Capabilities().Remote {
		s = retry.New(s, retry.Options{Total: storePatience})
	}
	return s, err
}
