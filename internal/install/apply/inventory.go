package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Ref names an object.
type Ref struct {
	Group, Version, Kind, Namespace, Name string
}

// RefOf names the object.
func RefOf(object Object) Ref {
	gvk := object.GroupVersionKind()
	return Ref{gvk.Group, gvk.Version, gvk.Kind, object.GetNamespace(), object.GetName()}
}

// String is such as Deployment istio-system/istiod.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// APIVersion is such as apps/v1.
func (r Ref) APIVersion() string { return r.gvk().GroupVersion().String() }

func (r Ref) gvk() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

// text is the form in which an inventory is stored; no part can have a comma in it.
func (r Ref) text() string {
	return strings.Join([]string{r.Group, r.Version, r.Kind, r.Namespace, r.Name}, ",")
}

// Inventory maps each object that was applied to what was recorded of it; "" is nothing yet.
type Inventory map[Ref]string

// InventoryOf lists the objects, with nothing recorded of them.
func InventoryOf(objects []Object) Inventory {
	inventory := Inventory{}
	for _, object := range objects {
		inventory[RefOf(object)] = ""
	}
	return inventory
}

// Missing returns what is in i and not in other, in a fixed order.
func (i Inventory) Missing(other Inventory) []Ref {
	var refs []Ref
	for ref := range i {
		if _, ok := other[ref]; !ok && !other.hasOtherVersion(ref) {
			refs = append(refs, ref)
		}
	}
	sort.Slice(refs, func(a, b int) bool { return refs[a].text() < refs[b].text() })
	return refs
}

// hasOtherVersion says whether the same object is in the inventory under another API version.
func (i Inventory) hasOtherVersion(ref Ref) bool {
	for other := range i {
		other.Version = ref.Version
		if other == ref {
			return true
		}
	}
	return false
}

const inventoryKey = "inventory"

// InventoryLabel is on the ConfigMaps that hold inventories.
const InventoryLabel = "install.operator.istio.io/inventory"

// LoadInventory reads the inventory that SaveInventory wrote; empty if there is none.
func (c Cluster) LoadInventory(ctx context.Context, namespace, name string) (Inventory, error) {
	configMap := &corev1.ConfigMap{}
	err := c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, configMap)
	if apierrors.IsNotFound(err) {
		return Inventory{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	var stored map[string]string
	if err := json.Unmarshal([]byte(configMap.Data[inventoryKey]), &stored); err != nil {
		return nil, fmt.Errorf("read inventory %s/%s: %w", namespace, name, err)
	}
	inventory := Inventory{}
	for text, record := range stored {
		parts := strings.Split(text, ",")
		if len(parts) != 5 {
			return nil, fmt.Errorf("read inventory %s/%s: entry %q", namespace, name, text)
		}
		inventory[Ref{parts[0], parts[1], parts[2], parts[3], parts[4]}] = record
	}
	return inventory, nil
}

// SaveInventory stores the inventory in a ConfigMap, if it differs from what is stored.
func (c Cluster) SaveInventory(ctx context.Context, namespace, name string, inventory Inventory) error {
	stored := make(map[string]string, len(inventory))
	for ref, record := range inventory {
		stored[ref.text()] = record
	}
	text, err := json.Marshal(stored)
	if err != nil {
		return err
	}
	configMap := &corev1.ConfigMap{}
	err = c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, configMap)
	if apierrors.IsNotFound(err) {
		configMap.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{InventoryLabel: "true"}}
		configMap.Data = map[string]string{inventoryKey: string(text)}
		return wrap("save inventory", c.Client.Create(ctx, configMap, client.FieldOwner(FieldManager)))
	}
	if err != nil {
		return fmt.Errorf("save inventory: %w", err)
	}
	if configMap.Data[inventoryKey] == string(text) {
		return nil
	}
	configMap.Data = map[string]string{inventoryKey: string(text)}
	return wrap("save inventory", c.Client.Update(ctx, configMap, client.FieldOwner(FieldManager)))
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
