package leader

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// EntryAddresses are the addresses that the mesh gives to a ServiceEntry, as its status says them.
type EntryAddresses struct {
	Entry     types.NamespacedName
	Addresses []map[string]string
}

var serviceEntries = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "serviceentries"}

// WriteEntryAddresses gives ServiceEntries their addresses, for ever. wanted returns those whose status says others; it is asked again
// when entries is another value, and while something could not be written.
func WriteEntryAddresses(ctx context.Context, client dynamic.Interface, entries func() any, wanted func() []EntryAddresses) {
	const period = 250 * time.Millisecond
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	var seen any
	for {
		if now := entries(); now != seen {
			seen = now
			for _, entry := range wanted() {
				if !writeAddresses(ctx, client, entry) {
					seen = nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// writeAddresses says whether there is nothing left to do.
func writeAddresses(ctx context.Context, client dynamic.Interface, entry EntryAddresses) bool {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"addresses": entry.Addresses}})
	if err == nil {
		_, err = client.Resource(serviceEntries).Namespace(entry.Entry.Namespace).Patch(ctx, entry.Entry.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		slog.Warn("ServiceEntry: cannot write its addresses", "entry", entry.Entry.String(), "error", err)
		return false
	}
	return true
}
