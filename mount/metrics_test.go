package mount

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFlatten(t *testing.T) {
	type inner struct {
		FetchedBytes int64
		RSSPeak      float64
		On           bool
		Name         string
	}
	got := flatten("massif", map[string]any{"blocks": inner{7, 1.5, true, "x"}, "two words": 3})
	want := map[string]float64{
		"massif_blocks_fetched_bytes": 7, "massif_blocks_rss_peak": 1.5, "massif_blocks_on": 1, "massif_two_words": 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flatten (-want +got):\n%s", diff)
	}
}
