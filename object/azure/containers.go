package azure

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
)

// Containers lists the names of the containers of the account of cfg, which need not
// name one. Credentials that may not ask that give ErrAccess.
func Containers(ctx context.Context, cfg Config) ([]string, error) {
	const op = "list containers"
	fail := func(err error) ([]string, error) { return nil, &object.Error{Op: op, Err: err} }
	if cfg.Container == "" {
		cfg.Container = "unnamed" // no request names it
	}
	cfg.Hierarchical = false
	s, err := open(cfg)
	if err != nil {
		return fail(err)
	}
	defer s.Close()
	s.where = "account \"" + s.cfg.Account + "\" at " + s.cfg.host()
	c, err := s.account()
	if err != nil {
		return fail(err)
	}
	var names []string
	for pager := c.NewListContainersPager(nil); pager.More(); {
		w := watchdog.Watch(ctx, s.cfg.StallTimeout)
		page, err := pager.NextPage(w.Context())
		err = s.fail(op, "", w, err)
		w.End()
		if err != nil {
			return nil, err
		}
		for _, item := range page.ContainerItems {
			if item.Name != nil {
				names = append(names, *item.Name)
			}
		}
	}
	return names, nil
}

// account makes a client of the whole account.
func (s *Store) account() (*service.Client, error) {
	sas, _, err := s.auth.sas()
	if err != nil {
		return nil, err
	}
	o := &service.ClientOptions{ClientOptions: s.options()}
	url := s.cfg.base() + "/"
	switch {
	case s.auth.key != nil:
		return service.NewClientWithSharedKeyCredential(url, s.auth.key, o)
	case s.auth.token != nil:
		return service.NewClient(url, s.auth.token, o)
	case sas != "":
		return service.NewClientWithNoCredential(url+"?"+sas, o)
	}
	return service.NewClientWithNoCredential(url, o)
}
