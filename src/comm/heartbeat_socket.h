// HeartbeatSocket: carries heartbeats between rank 0 and the others.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <vector>

#include "heartbeat.h"

namespace ssa {

/// A UDP socket on a port that the system chooses. Never blocks; a datagram that cannot be sent is lost.
class HeartbeatSocket {
 public:
  /// Throws Error if the socket cannot be created.
  HeartbeatSocket();
  ~HeartbeatSocket();
  HeartbeatSocket(const HeartbeatSocket&) = delete;
  HeartbeatSocket& operator=(const HeartbeatSocket&) = delete;

  int file() const { return file_; }
  /// The addresses of this socket: its port at every IPv4 address of this machine, the loopback address last.
  std::vector<sockaddr_in> addresses() const;
  void send(const Heartbeat& heartbeat, const sockaddr_in& to) const;
  /// The next heartbeat of `job`, if one has arrived.
  bool receive(std::uint64_t job, Heartbeat& heartbeat, sockaddr_in& from) const;

 private:
  int file_ = -1;
};

}  // namespace ssa
