// Package layer has a persistent map that can lie over another one of nearly the same content, and then holds only what
// differs. What it contains never depends on what it lies over: sharing saves memory and nothing else. It must not know what
// is in it.
package layer

import (
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Map is an ordered map from bytes. It is immutable; a Txn makes the next one.
type Map[T any] struct {
	same func(a, b T) bool
	// under is what the map lies over, or all of it where own is nil.
	under *iradix.Tree[T]
	own   *iradix.Tree[entry[T]]
	past  history
}

// entry is what differs from the map below: another value, or that there is none.
type entry[T any] struct {
	value T
	gone  bool
}

// history is what the last transactions of a line of maps wrote, the newest last.
type history struct {
	line *byte // the same for all maps that follow from one another
	seq  uint64
	keys [][][]byte
}

// historyLength is how many transactions a map may lag behind the one it lies over before the two are compared whole.
const historyLength = 32

func (h history) then(keys [][]byte) history {
	all := append(slices.Clone(h.keys), keys)
	if len(all) > historyLength {
		all = all[len(all)-historyLength:]
	}
	return history{h.line, h.seq + 1, all}
}

// since returns what was written after an older one of the line.
func (h history) since(old history) ([][]byte, bool) {
	behind := h.seq - old.seq
	if h.line != old.line || old.seq > h.seq || behind > uint64(len(h.keys)) {
		return nil, false
	}
	return slices.Concat(h.keys[uint64(len(h.keys))-behind:]...), true
}

// New is an empty map. same says whether two values are as good as each other.
func New[T any](same func(a, b T) bool) Map[T] {
	return Map[T]{same: same, under: iradix.New[T](), past: history{line: new(byte)}}
}

// Over is a map with the content of m, which lies over m. Over one that itself lies over another is not possible: it would be
// slow to read.
func (m Map[T]) Over() Map[T] {
	if m.own != nil {
		panic("layer: a map over one that lies over another")
	}
	return Map[T]{same: m.same, under: m.under, own: iradix.New[entry[T]](), past: m.past}
}

// Onto is a map with the content of m, which lies over a later state of what m lies over, or over another map altogether.
func (m Map[T]) Onto(below Map[T]) Map[T] {
	if m.own == nil || m.under == below.under {
		return m
	}
	next := Map[T]{same: m.same, under: below.under, past: below.past}
	if keys, ok := below.past.since(m.past); ok {
		txn := m.own.Txn()
		for _, key := range keys {
			value, there := m.Get(key)
			settle(txn, next, key, value, there)
		}
		next.own = txn.Commit()
		return next
	}
	txn := iradix.New[entry[T]]().Txn()
	m.Walk(func(key []byte, value T) bool {
		settle(txn, next, key, value, true)
		return false
	})
	below.Walk(func(key []byte, _ T) bool {
		if _, there := m.Get(key); !there {
			txn.Insert(key, entry[T]{gone: true})
		}
		return false
	})
	next.own = txn.Commit()
	return next
}

// settle notes what a key has in a map whose own tree txn becomes.
func settle[T any](txn *iradix.Txn[entry[T]], m Map[T], key []byte, value T, there bool) {
	below, has := m.under.Get(key)
	switch {
	case there == has && (!has || m.same(below, value)):
		txn.Delete(key)
	default:
		txn.Insert(key, entry[T]{value, !there})
	}
}

// Get finds a value.
func (m Map[T]) Get(key []byte) (T, bool) {
	if m.own != nil && m.own.Len() > 0 {
		if e, differs := m.own.Get(key); differs {
			return e.value, !e.gone
		}
	}
	return m.under.Get(key)
}

// Len is the number of keys.
func (m Map[T]) Len() int {
	n := m.under.Len()
	if m.own == nil {
		return n
	}
	m.own.Root().Walk(func(key []byte, e entry[T]) bool {
		_, below := m.under.Get(key)
		switch {
		case e.gone:
			n--
		case !below:
			n++
		}
		return false
	})
	return n
}

// Walk calls visit for each key in order, until it returns true.
func (m Map[T]) Walk(visit func(key []byte, value T) bool) { m.WalkPrefix(nil, visit) }

// WalkPrefix calls visit for each key that begins with prefix, in order, until it returns true.
func (m Map[T]) WalkPrefix(prefix []byte, visit func(key []byte, value T) bool) {
	if m.own == nil || m.own.Len() == 0 {
		m.under.Root().WalkPrefix(prefix, visit)
		return
	}
	below, own := m.under.Root().Iterator(), m.own.Root().Iterator()
	below.SeekPrefix(prefix)
	own.SeekPrefix(prefix)
	key, value, more := below.Next()
	ownKey, e, ownMore := own.Next()
	for more || ownMore {
		order := -1
		switch {
		case !more:
			order = 1
		case ownMore:
			order = slices.Compare(key, ownKey)
		}
		if order < 0 {
			if visit(key, value) {
				return
			}
		} else if !e.gone && visit(ownKey, e.value) {
			return
		}
		if order <= 0 {
			key, value, more = below.Next()
		}
		if order >= 0 {
			ownKey, e, ownMore = own.Next()
		}
	}
}

// Txn begins the next map.
func (m Map[T]) Txn() *Txn[T] {
	t := &Txn[T]{from: m}
	if m.own != nil {
		t.own = m.own.Txn()
	} else {
		t.all = m.under.Txn()
	}
	return t
}

// Txn collects changes to a Map.
type Txn[T any] struct {
	from Map[T]
	own  *iradix.Txn[entry[T]] // of a map that lies over another
	all  *iradix.Txn[T]        // of one that does not
	keys [][]byte
}

// Insert gives a key its value.
func (t *Txn[T]) Insert(key []byte, value T) {
	if t.own != nil {
		settle(t.own, t.from, key, value, true)
		return
	}
	t.keys = append(t.keys, key)
	t.all.Insert(key, value)
}

// Delete takes a key away.
func (t *Txn[T]) Delete(key []byte) {
	if t.own != nil {
		var none T
		settle(t.own, t.from, key, none, false)
		return
	}
	if _, there := t.all.Delete(key); there {
		t.keys = append(t.keys, key)
	}
}

// Commit is the next map; the one that it was begun on where nothing was written.
func (t *Txn[T]) Commit() Map[T] {
	next := t.from
	if t.own != nil {
		next.own = t.own.Commit()
		return next
	}
	if len(t.keys) == 0 {
		return next
	}
	next.under, next.past = t.all.Commit(), next.past.then(t.keys)
	return next
}
