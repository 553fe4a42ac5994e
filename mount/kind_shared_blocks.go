package mount

import (
	"context"
	"errors"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/meta/metarpc"
	"github.com/massif-fs/massif/mount/creds"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/vfs"
)

// openSharedBlocks opens the way to a shared volume's blocks.
func openSharedBlocks(ctx context.Context, _ *creds.File, m *adminapi.MountSettings, _ *metaLink, _ *metarpc.Client) (object.Store, func(vfs.Ino, uint32, ...block.ID), error) {
	if m.BlockAccess == adminapi.BlocksDirect && m.Blocks != nil {
		s, err := openDirect(ctx, m.Blocks)
		return s, nil, err
	}
	return nil, nil, errors.New("only blockAccess=direct is there yet")
}
