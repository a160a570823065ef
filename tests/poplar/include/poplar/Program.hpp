// A stub of Poplar's programs: a count of what they hold.
#pragma once
#include <poplar/Graph.hpp>

namespace poplar {
namespace program {

class Program {
public:
  unsigned steps = 0;
};
class Execute : public Program {
public:
  explicit Execute(const ComputeSet &) { steps = 1; }
};
class Sequence : public Program {
public:
  void add(const Program &program) { steps += program.steps; }
};

} // namespace program
} // namespace poplar
