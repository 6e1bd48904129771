package lifecycle

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/apply"
)

// The last good installations of an owner are kept in ConfigMaps, one each: what was written and what it was rendered
// to, CRDs left out. So what ran can come back whatever the operator's charts are by then.

const (
	historyPrefix = "istio-operator-history-"
	// historyLabel says whose history a ConfigMap belongs to.
	historyLabel  = "install.operator.istio.io/history"
	historyKey    = "installation"
	historyHash   = "install.operator.istio.io/hash"
	historyLimit  = 5
	historyNumber = "install.operator.istio.io/number"
)

// Installation is a good installation of the past.
type Installation struct {
	// Number counts from 1; it is not used again.
	Number int
	Time   time.Time
	Target *Target
	hash   string
	packed []byte // the target, zipped
}

// Is says whether the installation is of the same objects as the target.
func (i Installation) Is(target *Target) bool { return i.hash == target.hash() }

// History lists the owner's last good installations, oldest first.
func (i Installer) History(ctx context.Context, owner Owner) ([]Installation, error) {
	all, err := i.stored(ctx, owner)
	if err != nil {
		return nil, err
	}
	for k := range all {
		if err := all[k].unpack(); err != nil {
			return nil, fmt.Errorf("read history %s: %w", owner.historyName(all[k].Number), err)
		}
	}
	return all, nil
}

// stored lists the history, oldest first, without unpacking the targets.
func (i Installer) stored(ctx context.Context, owner Owner) ([]Installation, error) {
	list := &corev1.ConfigMapList{}
	err := i.Cluster.Client.List(ctx, list, client.InNamespace(owner.Namespace), client.MatchingLabels{historyLabel: owner.Name})
	if err != nil {
		return nil, fmt.Errorf("list history: %w", err)
	}
	all := make([]Installation, 0, len(list.Items))
	for _, kept := range list.Items {
		number, err := strconv.Atoi(kept.Annotations[historyNumber])
		if err != nil {
			return nil, fmt.Errorf("read history %s: %w", kept.Name, err)
		}
		all = append(all, Installation{Number: number, Time: kept.CreationTimestamp.Time, hash: kept.Annotations[historyHash], packed: kept.BinaryData[historyKey]})
	}
	sort.Slice(all, func(a, b int) bool { return all[a].Number < all[b].Number })
	return all, nil
}

func (i *Installation) unpack() error {
	zipped, err := gzip.NewReader(bytes.NewReader(i.packed))
	if err != nil {
		return err
	}
	i.Target = &Target{}
	return json.NewDecoder(zipped).Decode(i.Target)
}

// keep stores a good installation, unless the last one that is stored is the same, and drops the oldest.
func (i Installer) keep(ctx context.Context, target *Target) error {
	stored, err := i.stored(ctx, target.Owner)
	if err != nil {
		return err
	}
	number, hash := 1, target.hash()
	if n := len(stored); n > 0 {
		if stored[n-1].hash == hash {
			return nil
		}
		number = stored[n-1].Number + 1
	}
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	small := *target
	small.Components = withoutCRDs(target.Components)
	if err := json.NewEncoder(writer).Encode(small); err != nil {
		return err
	}
	if err := writer.Close(); err != nil {
		return err
	}
	configMap := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: target.Owner.Namespace, Name: target.Owner.historyName(number),
			Labels:      map[string]string{historyLabel: target.Owner.Name},
			Annotations: map[string]string{historyNumber: strconv.Itoa(number), historyHash: hash}},
		BinaryData: map[string][]byte{historyKey: zipped.Bytes()},
	}
	if err := i.Cluster.Client.Create(ctx, configMap, client.FieldOwner(apply.FieldManager)); err != nil {
		return fmt.Errorf("keep history: %w", err)
	}
	limit := historyLimit
	if target.Lifecycle.HistoryLimit != nil {
		limit = int(*target.Lifecycle.HistoryLimit)
	}
	for len(stored) >= limit {
		if err := i.forget(ctx, target.Owner, stored[0].Number); err != nil {
			return err
		}
		stored = stored[1:]
	}
	return nil
}

func (o Owner) historyName(number int) string {
	return historyPrefix + o.Name + "-" + strconv.Itoa(number)
}

func (i Installer) forget(ctx context.Context, owner Owner, number int) error {
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: owner.Namespace, Name: owner.historyName(number)}}
	return client.IgnoreNotFound(i.Cluster.Client.Delete(ctx, configMap))
}

// LastGood is the newest good installation, or the one with the number if it is not 0.
func (i Installer) LastGood(ctx context.Context, owner Owner, number int) (Installation, error) {
	stored, err := i.History(ctx, owner)
	if err != nil {
		return Installation{}, err
	}
	for k := len(stored) - 1; k >= 0; k-- {
		if number == 0 || stored[k].Number == number {
			return stored[k], nil
		}
	}
	if number == 0 {
		return Installation{}, fmt.Errorf("%s was never healthy: there is nothing to go back to", owner)
	}
	return Installation{}, fmt.Errorf("%s has no installation %d", owner, number)
}
