package azure

import (
	"errors"
	"slices"
	"testing"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/object"
)

func TestContainers(t *testing.T) {
	endpoint := testserver.Azure(t)
	want := []string{"letters", "photos"}
	for _, name := range want {
		testserver.AzureContainer(t, endpoint, name)
	}
	cfg := Config{Account: testserver.AzureAccount, Endpoint: endpoint, Credentials: Credentials{AccountKey: testserver.AzureKey}}
	names, err := Containers(t.Context(), cfg)
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("%q, %v", names, err)
	}
	cfg.Credentials.AccountKey = Secret(base64URL("wrong"))
	if _, err := Containers(t.Context(), cfg); !errors.Is(err, object.ErrAccess) {
		t.Errorf("wrong key: %v", err)
	}
}
