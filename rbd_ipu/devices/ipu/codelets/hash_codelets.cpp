// The integer hash of a direction's entries, on the tiles of an IPU: the words of rbd_ipu/directions/stream.py and
// rbd_ipu/seeds.py, bit for bit. All arithmetic is on unsigned words of 32 bits, which wrap round by the rules of the
// language; that int32 products of TensorFlow wrap round on an IPU is not documented.

#include <poplar/Vertex.hpp>

using word = unsigned int;
static_assert(sizeof(word) == 4, "words are of 32 bits");

static inline word hash32(word x) {
  x = (x ^ (x >> 16)) * 0x21F0AAADu;
  x = (x ^ (x >> 15)) * 0xD35A2D97u;
  return x ^ (x >> 15);
}

// (offset, odd step) of a key.
static inline void schedule(word &a, word &b) {
  b += hash32(a + 0x21F0AAADu);
  a += hash32(b);
  b += hash32(a);
  b |= 1u;
}

static inline word rotated(word x, unsigned bits) { return (x << bits) | (x >> (32u - bits)); }

// Threefry-2x32 with 20 rounds.
static inline void threefry(word k0, word k1, word &x0, word &x1) {
  const unsigned rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const word keys[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
  x0 += k0;
  x1 += k1;
  for (unsigned group = 0; group < 5; ++group) {
    for (unsigned i = 0; i < 4; ++i) {
      x0 += x1;
      x1 = rotated(x1, rotations[group % 2][i]) ^ x0;
    }
    x0 += keys[(group + 1) % 3];
    x1 += keys[(group + 2) % 3] + group + 1;
  }
}

// out[i] = hash32(offset + places[i] * step), with head = (offset, step) of a direction.
class RbdWords : public poplar::Vertex {
public:
  poplar::Input<poplar::Vector<int>> head;
  poplar::Input<poplar::Vector<int>> tail;
  poplar::Output<poplar::Vector<int>> out;

  bool compute() {
    const word offset = word(head[0]), step = word(head[1]);
    for (unsigned i = 0; i < out.size(); ++i)
      out[i] = int(hash32(offset + word(tail[i]) * step));
    return true;
  }
};

// out[2 i], out[2 i + 1] = schedule(threefry(head, (0, tail[i]))), with head a seed: fold_in, then the schedule.
class RbdKeys : public poplar::Vertex {
public:
  poplar::Input<poplar::Vector<int>> head;
  poplar::Input<poplar::Vector<int>> tail;
  poplar::Output<poplar::Vector<int>> out;

  bool compute() {
    for (unsigned i = 0; i < tail.size(); ++i) {
      word a = 0, b = word(tail[i]);
      threefry(word(head[0]), word(head[1]), a, b);
      schedule(a, b);
      out[2 * i] = int(a);
      out[2 * i + 1] = int(b);
    }
    return true;
  }
};
