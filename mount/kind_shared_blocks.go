package mount

import (
	"context"
	"errors"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/block/blockgate"
	"github.com/massif-fs/massif/meta/metarpc"
	"github.com/massif-fs/massif/mount/creds"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/retry"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/vfs"
)

// openSharedBlocks opens the way to a shared volume's blocks, and returns whom to
// tell which file a block belongs to, if anybody.
func openSharedBlocks(ctx context.Context, env *Env, _ *creds.File, m *adminapi.MountSettings, link *metaLink, client *metarpc.Client) (object.Store, func(vfs.Ino, uint32, ...block.ID), error) {
	if env.Options.Writeback {
		// A staged block is uploaded after the commit that points to it: other mounts
		// would not find it, and the gate lets nobody write it any more.
		return nil, nil, &UsageError{errors.New("with writeback other mounts would not find what is still on this machine's disk; a shared volume is mounted without")}
	}
	if m.BlockAccess == adminapi.BlocksDirect {
		if m.Blocks == nil {
			return nil, nil, errors.New("the admin server does not say where they are")
		}
		s, err := openDirect(ctx, m.Blocks)
		return s, nil, err
	}
	c, err := blockgate.NewClient(blockgate.ClientConfig{
		URL: "https://" + link.addr, TLS: link.tls, Session: client.BlockSession, UserAgent: "massif",
	})
	if err != nil {
		return nil, nil, err
	}
	return retry.New(c, retry.Options{Total: storePatience}), c.Refer, nil
}
